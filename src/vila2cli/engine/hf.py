"""The transformers engine: exact, needs nothing but torch, and independent of the worker split.

Shapes: B rows of the batch, S prompt tokens, T generated or scored tokens, V vocabulary.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from vila2cli.engine import AnyRequest, DeviceKind, EngineSettings, Request, Result, ScoreRequest
from vila2cli.engine.adapted import Adapted
from vila2cli.engine.asking import preparing_for, with_system
from vila2cli.engine.batching import chunks_by_group, largest_batch
from vila2cli.engine.ending import Ending
from vila2cli.engine.fitting import check_model, fitting
from vila2cli.engine.limits import (
    answered,
    cache_bytes_per_token,
    eos_token_ids,
    failed,
    in_fewer_tiles,
    room_for_answer,
    scored_ids,
)
from vila2cli.engine.memory import available_memory
from vila2cli.engine.sampling import SeededSampler
from vila2cli.engine.shared import SharedFeatures
from vila2cli.engine.trial import Shown, try_out
from vila2cli.errors import DataError, ModelError, one_line
from vila2cli.model.chat import Chat, collate
from vila2cli.model.checkpoint import weights_sha256
from vila2cli.model.layers import context_length, turning_length
from vila2cli.model.loading import RUN_ERRORS, load_generator
from vila2cli.model.ready import release
from vila2cli.model.reference import padding
from vila2cli.run.stopping import Stop
from vila2cli.settings import AskedSettings

_LOOKAHEAD_BATCHES = 16
_OF_ONE_REQUEST: tuple[type[Exception], ...] = (*RUN_ERRORS, DataError)
_LOGITS_BYTES = 1 << 30  # of a batch that is scored; not what is free: batches must be the same everywhere
_LOOKAHEAD_PIXELS = 256_000_000  # 768 MB of decoded RGB held while requests are sorted by length


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request with its ids; the last `num_new` of them are scored, or as many more are generated."""

    request: AnyRequest
    ids: list[int]
    num_new: int

    @property
    def answer_start(self) -> int | None:
        """Where the text that is scored begins, None for what is generated."""
        return len(self.ids) - self.num_new if isinstance(self.request, ScoreRequest) else None

    @property
    def longest(self) -> int:
        """Tokens of prompt and text together, of one that is generated the most."""
        return len(self.ids) + (0 if isinstance(self.request, ScoreRequest) else self.num_new)


class HfEngine:
    """A checkpoint in transformers' own `generate`, batched by length inside each request group."""

    name = "hf"
    dollars = 0.0
    num_fewer_tiles = 0

    def __init__(self, model: str, folder: Path, settings: EngineSettings, stop: Stop | None = None) -> None:
        self.model = model
        self._asked, self._stop = settings.asked, stop or Stop()
        self.notes: list[str] = []
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.device_kind: DeviceKind = "gpu" if self.device.type == "cuda" else "core"
        self.num_devices = 1 if self.device.type == "cuda" else torch.get_num_threads()
        self._limit = settings.batch_size or (512 if self.device.type == "cuda" else 128)
        self.batch_size = 0  # found when the first requests are there
        self._net, self._chat = _load(folder, settings.dtype, settings.asked, self.device)
        if self._chat.whole:
            self._limit = 1
            self.notes.append("its processor lays out every prompt with its pictures: one request at a time")
        self._asks_again = settings.parts > 1
        self.preparing = preparing_for(self._chat, settings.machine)
        self._adapted = Adapted(self._net, settings.adapters) if settings.adapters else None
        self._net.eval()
        self.model_sha256 = weights_sha256(folder)
        self._context = min(context_length(self._net.config), settings.context_limit)
        self._turn = turning_length(self._net.config)
        self._eos = eos_token_ids(self._net.generation_config.eos_token_id, self._chat)
        self._pad = padding(self._net, self._chat, self._eos)
        # Hidden defaults of the checkpoint (repetition penalty, top-k, ...) would decide the text unseen.
        self._net.generation_config = GenerationConfig(
            do_sample=False, use_cache=True, eos_token_id=self._eos, pad_token_id=self._pad
        )
        is_shared = settings.parts > 1 and not settings.adapters
        can_share = is_shared and SharedFeatures.suits(self._net, self.device)
        self._shared = SharedFeatures(self._net) if can_share else None
        self._can_keep = "logits_to_keep" in inspect.signature(self._net.forward).parameters
        if self._chat.takes_images:
            self._try_out()

    def generate(self, requests: Iterable[AnyRequest]) -> Iterator[Result]:
        """Yield results batch by batch; a group's batches depend on nothing outside the group."""
        for chunk in chunks_by_group(requests, _LOOKAHEAD_BATCHES * self._limit, _LOOKAHEAD_PIXELS):
            if self._adapted is not None:
                self._adapted.use(chunk[0].adapter)
            prepared: list[_Prepared] = []
            for request in chunk:
                try:
                    prepared.append(self._prepare(request))
                except (DataError, ValueError) as error:
                    yield failed(request, str(error))
            yield from self._generated([p for p in prepared if isinstance(p.request, Request)])
            yield from self._scored([p for p in prepared if isinstance(p.request, ScoreRequest)])

    def _generated(self, prepared: list[_Prepared]) -> Iterator[Result]:
        if prepared and not self.batch_size:
            self._find_batch_size(max(prepared, key=lambda p: len(p.ids) + p.num_new))
        prepared.sort(key=lambda p: (p.num_new, len(p.ids)))
        while prepared:
            batch = [p for p in prepared[: self.batch_size] if p.num_new == prepared[0].num_new]
            batch = self._turned_alike(batch)
            done = self._first_that_fit(batch, self._generate)
            self._release(batch[: len(done)])
            yield from done
            prepared = prepared[len(done) :]

    def _scored(self, prepared: list[_Prepared]) -> Iterator[Result]:
        if prepared and not self.batch_size:
            self.batch_size = self._limit
            self.notes.append(f"batch size {self.batch_size}, fewer where their logits are above 1 GiB")
        prepared.sort(key=lambda p: len(p.ids))
        while prepared:
            batch = prepared[: min(self.batch_size, self._num_scored_together(prepared))]
            batch = self._turned_alike(batch)
            done = self._first_that_fit(batch, self._score)
            self._release(batch[: len(done)])
            yield from done
            prepared = prepared[len(done) :]

    def _turned_alike(self, batch: list[_Prepared]) -> list[_Prepared]:
        """The first requests, sorted by length, whose positions are turned as each one's alone would be."""
        if not self._turn or batch[0].longest <= self._turn:
            return [p for p in batch if not self._turn or p.longest <= self._turn]
        return batch if len(batch[0].ids) > self._turn else batch[:1]

    def _release(self, asked: Sequence[_Prepared]) -> None:
        """Let go of tensors that the model has seen, unless other layers ask about the same pictures."""
        if not self._asks_again:
            release(image for p in asked for image in p.request.images)

    def _num_scored_together(self, prepared: Sequence[_Prepared]) -> int:
        """How many of the first requests, sorted by length, have logits that fit: B x T x V of them."""
        position = self._net.config.get_text_config().vocab_size * self._net.dtype.itemsize
        start = len(prepared[0].ids)
        for number, p in enumerate(prepared, start=1):
            start = min(start, len(p.ids) - p.num_new)
            if number * (len(p.ids) - start + 1) * position > _LOGITS_BYTES:
                return max(1, number - 1)
        return len(prepared)

    def _try_out(self) -> None:
        """Ask about two pictures, and batch no more than one request where two are answered another way."""

        def inputs_of(shown: Sequence[Shown]) -> dict[str, Any]:
            asked = [
                Request(id="", messages=turns, images=(image,), max_new_tokens=1) for turns, image in shown
            ]
            return self._inputs(
                [_Prepared(one, self._chat.prompt_ids(one.messages, one.images), 1) for one in asked],
                pad_left=True,
            )

        if not try_out(self._net, inputs_of, is_batched=not self._chat.whole) and not self._chat.whole:
            self._limit = 1
            self.notes.append(f"{type(self._net).__name__} answers otherwise in batches: one request at a time")

    def _prepare(self, request: AnyRequest) -> _Prepared:
        request = with_system(request, self._asked.system)
        request, is_in_fewer = in_fewer_tiles(self._chat, request, self._context, self.notes)
        self.num_fewer_tiles += is_in_fewer
        if isinstance(request, ScoreRequest):
            return _Prepared(request, *scored_ids(self._chat, request, self._context))
        ids = self._chat.prompt_ids(request.messages, request.images)
        room = room_for_answer(self._context, len(ids), len(request.images))
        return _Prepared(request, ids, min(request.max_new_tokens, room))

    def _find_batch_size(self, longest: _Prepared) -> None:
        """Settle the batch size on what fits when every request is as long as this one."""
        fits = self._fits_accelerator if self.device.type == "cuda" else self._fits_main_memory
        self.batch_size = largest_batch(lambda size: fits(longest, size), self._limit)
        if not self.batch_size:
            raise ModelError(_too_large(self.model, longest))
        why = "as set" if self.batch_size == self._limit else "the largest that fits in memory"
        self.notes.append(f"batch size {self.batch_size} ({why})")

    def _fits_accelerator(self, longest: _Prepared, size: int) -> bool:
        """Run the prompts, with as much memory set aside as the answers' keys and values will take.

        Not where that alone is more than what is free, of the device and of what torch holds there.
        """
        free = torch.cuda.mem_get_info(self.device)[0]
        held = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        if size > 1 and size * self._cache_bytes(len(longest.ids) + longest.num_new) > free + held:
            return False
        try:
            num_spare = size * self._cache_bytes(longest.num_new)
            spare = torch.empty(num_spare, dtype=torch.uint8, device=self.device)
            self._generate([_Prepared(longest.request, longest.ids, 1)] * size)
            del spare
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        return True

    def _fits_main_memory(self, longest: _Prepared, size: int) -> bool:
        """Whether keys, values and logits take at most half of what is free; the rest is for activations."""
        logits = 4 * self._net.config.get_text_config().vocab_size
        row = self._cache_bytes(len(longest.ids) + longest.num_new) + 3 * logits
        return size == 1 or size * row <= available_memory() // 2

    def _cache_bytes(self, num_tokens: int) -> int:
        """Keys and values of one sequence, with a quarter on top for the copies made while they grow."""
        return num_tokens * cache_bytes_per_token(self._net.config, self._net.dtype.itemsize) * 5 // 4

    def _first_that_fit(
        self, batch: list[_Prepared], run: Callable[[list[_Prepared]], list[Result]]
    ) -> list[Result]:
        """Results of the first part of `batch` that fits in memory."""
        while True:
            try:
                return run(batch)
            except _OF_ONE_REQUEST as error:
                where = _exhausted(error)
                if where is None:
                    return self._one_by_one(batch, run)
                if len(batch) == 1:
                    raise ModelError(_too_large(self.model, batch[0])) from None
            batch = batch[: len(batch) // 2]
            self.batch_size = len(batch)
            self.notes.append(f"out of {where} memory: batch size reduced to {self.batch_size}")
            torch.cuda.empty_cache()

    def _one_by_one(
        self, batch: list[_Prepared], run: Callable[[list[_Prepared]], list[Result]]
    ) -> list[Result]:
        """Results of a batch in which the model fails on a request, which is no reason to lose the others."""
        results = []
        for p in batch:
            try:
                results += run([p])
            except _OF_ONE_REQUEST as error:
                if _exhausted(error) is not None:
                    raise ModelError(_too_large(self.model, p)) from None
                results.append(failed(p.request, f"{type(self._net).__name__} fails: {one_line(error)}"))
        return results

    @torch.inference_mode()
    def _generate(self, batch: list[_Prepared]) -> list[Result]:
        """Results of a batch; what the vision tower makes of its images is shared by the parts of a pass."""
        images = [image for p in batch for image in p.request.images]
        with self._shared.over(images, batch[0].request.group) if self._shared else nullcontext():
            return self._answers(batch)

    def _answers(self, batch: list[_Prepared]) -> list[Result]:
        requests = [p.request for p in batch if isinstance(p.request, Request)]
        sampler = SeededSampler(
            [r.temperature for r in requests],
            [r.top_p for r in requests],
            [r.seed for r in requests],
            self.device,
            self._asked,
            [len(p.ids) for p in batch],
        )
        inputs = self._inputs(batch, pad_left=True)
        num_prompt = inputs["input_ids"].shape[1]
        ending = Ending(
            self._chat,
            self._asked.stop,
            self._eos,
            self._stop,
            num_prompt=num_prompt,
            num_new=batch[0].num_new,
        )
        ids_BS = self._net.generate(
            **inputs,
            max_new_tokens=batch[0].num_new,
            logits_processor=LogitsProcessorList([sampler]),
            stopping_criteria=StoppingCriteriaList([ending]),
        )
        new_BT = [row[: ending.num_tokens.get(i)] for i, row in enumerate(ids_BS[:, num_prompt:].tolist())]
        has_ended = [i in ending.num_tokens for i in range(len(batch))]
        logprobs_BT = sampler.logprobs_BT.tolist()
        return [self._result(*row) for row in zip(requests, new_BT, logprobs_BT, has_ended, strict=True)]

    @torch.inference_mode()
    def _score(self, batch: list[_Prepared]) -> list[Result]:
        # Padded on the right, where causal attention never looks; the token at i is predicted at i - 1.
        inputs = self._inputs(batch, pad_left=False)
        start = min(len(p.ids) - p.num_new for p in batch) - 1
        num_kept = inputs["input_ids"].shape[1] - start
        kept = {"logits_to_keep": num_kept} if self._can_keep else {}
        logits_BTV = self._net(**inputs, use_cache=False, **kept).logits[:, -num_kept:]
        results = []
        for p, logits_TV in zip(batch, logits_BTV, strict=True):
            first = len(p.ids) - p.num_new - 1 - start
            own_TV = logits_TV[first : first + p.num_new].float()
            ids_T1 = torch.tensor(p.ids[-p.num_new :], device=self.device)[:, None]
            logprobs_T = own_TV.gather(-1, ids_T1)[:, 0] - own_TV.logsumexp(-1)
            results.append(Result(id=p.request.id, token_logprobs=tuple(logprobs_T.tolist())))
        return results

    def _inputs(self, batch: Sequence[_Prepared], *, pad_left: bool) -> dict[str, Any]:
        if self._chat.whole and batch[0].request.images:
            asked = batch[0].request  # the only one
            answer = asked.text if isinstance(asked, ScoreRequest) else None
            made = self._chat.whole_inputs(asked.messages, asked.images, answer)
            if made["input_ids"].tolist() != [batch[0].ids]:
                raise DataError("its answer cannot be told from the tokens around it")
            return {name: self._placed(value) for name, value in made.items()}
        padded = collate([(p.ids, p.ids) for p in batch], self._pad, left=pad_left)
        pixels: Any = None if self._shared is None else self._shared.pixel_inputs()
        if pixels is None:
            pixels = self._chat.pixel_inputs([p.request.images for p in batch])
        inputs = {name: self._placed(value) for name, value in pixels.items()}
        for name in ("input_ids", "attention_mask"):
            inputs[name] = torch.tensor(padded[name], device=self.device)
        types = [self._chat.token_inputs(p.ids, p.answer_start) for p in batch]
        for name in types[0]:
            rows = collate([(own[name], own[name]) for own in types], 0, left=pad_left)["input_ids"]
            inputs[name] = torch.tensor(rows, device=self.device)
        return inputs

    def _placed(self, value: Any) -> Any:
        """Tensors, or lists of them, on the model's device, numbers with a point in its format."""
        if isinstance(value, torch.Tensor):
            dtype = self._net.dtype if value.is_floating_point() else value.dtype
            return value.to(self.device, dtype)
        return [self._placed(one) for one in value] if isinstance(value, list | tuple) else value

    def _result(self, request: Request, tokens: list[int], logprobs: list[float], has_ended: bool) -> Result:
        stop = next((i + 1 for i, token in enumerate(tokens) if token in self._eos), None)
        num_tokens = len(tokens) if stop is None else stop
        return answered(
            request,
            text=self._chat.reply(tokens[:num_tokens], self._asked.stop),
            num_tokens=num_tokens,
            finish_reason="length" if stop is None and not has_ended else "stop",
            logprob_mean=sum(logprobs[:num_tokens]) / num_tokens,
        )


def _exhausted(error: Exception) -> str | None:
    """Which memory an error says is used up, None for another error; torch has no name for that of a CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return "accelerator"
    return "main" if "DefaultCPUAllocator" in str(error) else None


def _too_large(model: str, prepared: _Prepared) -> str:
    return (
        f"{model}: a request of {len(prepared.ids)} tokens does not fit in memory; "
        "use a smaller image size, or dtype bfloat16"
    )


def _load(folder: Path, dtype: str, asked: AskedSettings, device: torch.device) -> tuple[Any, Chat]:
    """Model in evaluation mode and its chat; raises ModelError for whatever is wrong with the folder."""
    chat = fitting(folder, asked)
    net: Any = load_generator(folder, dtype=dtype)
    check_model(net, chat)
    return net.to(device).eval(), chat
