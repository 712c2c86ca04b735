"""The transformers engine: exact, needs nothing but torch, and independent of the worker split.

Shapes: B rows of the batch, S prompt tokens, T generated tokens.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig, LogitsProcessorList
from transformers.utils.logging import disable_progress_bar

from vila2cli.engine import EngineSettings, Request, Result
from vila2cli.engine.limits import context_length, eos_token_ids, failed, one_line
from vila2cli.engine.sampling import SeededSampler
from vila2cli.errors import DataError, ModelError
from vila2cli.model.chat import Chat
from vila2cli.model.checkpoint import weights_sha256
from vila2cli.model.quiet import quiet_transformers

_LOOKAHEAD_BATCHES = 16
_LOOKAHEAD_PIXELS = 256_000_000  # 768 MB of decoded RGB held while requests are sorted by length


@dataclass(frozen=True, slots=True)
class _Prepared:
    request: Request
    ids: list[int]
    max_new_tokens: int


class HfEngine:
    """A checkpoint in transformers' own `generate`, batched by length inside each request group."""

    name = "hf"

    def __init__(self, model: str, folder: Path, settings: EngineSettings) -> None:
        self.model = model
        self.notes: list[str] = []
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.num_devices = 1 if self.device.type == "cuda" else torch.get_num_threads()
        if torch.cuda.device_count() > 1:
            self.notes.append(f"one of {torch.cuda.device_count()} GPUs is used; start a --worker for each")
        self.batch_size = settings.batch_size
        self._net, self._chat = _load(folder, settings.dtype, self.device)
        self.model_sha256 = weights_sha256(folder)
        self._context = min(context_length(self._net.config), settings.max_model_len)
        self._eos = eos_token_ids(self._net.generation_config.eos_token_id, self._chat.tokenizer)
        pad = self._chat.tokenizer.pad_token_id
        self._pad = self._eos[0] if pad is None else int(pad)
        # Hidden defaults of the checkpoint (repetition penalty, top-k, ...) would decide the text unseen.
        self._net.generation_config = GenerationConfig(
            do_sample=False, use_cache=True, eos_token_id=self._eos, pad_token_id=self._pad
        )

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """Yield results batch by batch; a group's batches depend on nothing outside the group."""
        lookahead = _LOOKAHEAD_BATCHES * self.batch_size
        for chunk in chunks_by_group(requests, lookahead, _LOOKAHEAD_PIXELS):
            prepared: list[_Prepared] = []
            for request in chunk:
                outcome = self._prepare(request)
                if isinstance(outcome, Result):
                    yield outcome
                else:
                    prepared.append(outcome)
            prepared.sort(key=lambda p: (p.max_new_tokens, len(p.ids)))
            while prepared:
                batch = _same_limit(prepared[: self.batch_size])
                done = self._try_batch(batch)
                yield from done
                prepared = prepared[len(done) :]

    def _prepare(self, request: Request) -> _Prepared | Result:
        try:
            ids = self._chat.prompt_ids(request.messages, request.images)
        except (DataError, ValueError) as error:
            return failed(request, str(error))
        room = self._context - len(ids)
        if room < 1:
            return failed(request, f"prompt of {len(ids)} tokens does not fit the context of {self._context}")
        return _Prepared(request, ids, min(request.max_new_tokens, room))

    def _try_batch(self, batch: list[_Prepared]) -> list[Result]:
        """Results of the first part of `batch` that fits the accelerator's memory."""
        while True:
            try:
                return self._run(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise ModelError(
                        f"{self.model}: a request of {len(batch[0].ids)} tokens does not fit the accelerator's "
                        "memory; use a smaller image size, or dtype bfloat16"
                    ) from None
            batch = batch[: len(batch) // 2]
            self.batch_size = len(batch)
            self.notes.append(f"out of accelerator memory: batch size reduced to {self.batch_size}")
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _run(self, batch: list[_Prepared]) -> list[Result]:
        requests = [p.request for p in batch]
        sampler = SeededSampler(
            [r.temperature for r in requests],
            [r.top_p for r in requests],
            [r.seed for r in requests],
            self.device,
        )
        inputs = self._inputs(batch)
        ids_BS = self._net.generate(
            **inputs, max_new_tokens=batch[0].max_new_tokens, logits_processor=LogitsProcessorList([sampler])
        )
        new_BT = ids_BS[:, inputs["input_ids"].shape[1] :].tolist()
        logprobs_BT = sampler.logprobs_BT.tolist()
        return [self._result(*row) for row in zip(requests, new_BT, logprobs_BT, strict=True)]

    def _inputs(self, batch: list[_Prepared]) -> dict[str, torch.Tensor]:
        longest = max(len(p.ids) for p in batch)
        ids_BS = [[self._pad] * (longest - len(p.ids)) + p.ids for p in batch]
        mask_BS = [[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in batch]
        pixels = self._chat.pixel_inputs([image for p in batch for image in p.request.images])
        inputs = {
            name: value.to(self.device, self._net.dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in pixels.items()
        }
        inputs["input_ids"] = torch.tensor(ids_BS, device=self.device)
        inputs["attention_mask"] = torch.tensor(mask_BS, device=self.device)
        return inputs

    def _result(self, request: Request, tokens: list[int], logprobs: list[float]) -> Result:
        stop = next((i + 1 for i, token in enumerate(tokens) if token in self._eos), None)
        num_tokens = len(tokens) if stop is None else stop
        text = self._chat.tokenizer.decode(tokens[:num_tokens], skip_special_tokens=True)
        return Result(
            id=request.id,
            text=text.strip(),
            num_tokens=num_tokens,
            finish_reason="length" if stop is None else "stop",
            logprob_mean=sum(logprobs[:num_tokens]) / num_tokens,
        )


def chunks_by_group(requests: Iterable[Request], max_requests: int, max_pixels: int) -> Iterator[list[Request]]:
    """Cut the stream where the group changes, and inside a group before it grows past either bound."""
    chunk: list[Request] = []
    num_pixels = 0
    for request in requests:
        pixels = sum(image.width * image.height for image in request.images)
        is_full = len(chunk) >= max_requests or num_pixels + pixels > max_pixels
        if chunk and (is_full or request.group != chunk[0].group):
            yield chunk
            chunk, num_pixels = [], 0
        chunk.append(request)
        num_pixels += pixels
    if chunk:
        yield chunk


def _same_limit(batch: list[_Prepared]) -> list[_Prepared]:
    return [p for p in batch if p.max_new_tokens == batch[0].max_new_tokens]


def _load(folder: Path, dtype: str, device: torch.device) -> tuple[Any, Chat]:
    """Model in evaluation mode and its chat; raises ModelError for whatever is wrong with the folder."""
    disable_progress_bar()
    quiet_transformers()
    try:
        net, info = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"{folder} cannot be loaded by transformers: {one_line(error)}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"{folder} lacks {len(missing)} weights of its architecture, the first is {missing[0]}"
        )
    return net.to(device).eval(), Chat(processor)
