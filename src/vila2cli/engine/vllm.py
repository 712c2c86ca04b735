"""The vLLM engine: continuous batching, fed from a bounded window across request groups.

On CPU it runs in this process (three times faster to start and 1.3 times faster to run than vLLM's
own worker processes there). On GPU the engine core is a process of its own, so that preparing
images overlaps with decoding, and the model is spread over as many GPUs as `placing` says.
"""

import functools
import gc
import logging
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from vila2cli.engine import AnyRequest, DeviceKind, EngineSettings, Preparing, Request, Result, ScoreRequest
from vila2cli.engine.asking import with_system
from vila2cli.engine.batching import Window
from vila2cli.engine.fitting import fitting
from vila2cli.engine.limits import (
    answered,
    eos_token_ids,
    failed,
    in_fewer_tiles,
    room_for_answer,
    scored_ids,
    stated_ends,
)
from vila2cli.engine.vllm_options import check_turning, context_on, engine_options, place
from vila2cli.engine.vllm_ready import normalises_itself, prompt_of, take_ready, takes_alike
from vila2cli.engine.vllm_support import quiet
from vila2cli.errors import DataError, ModelError, UnaskableError, one_line
from vila2cli.model.chat import Chat
from vila2cli.model.checkpoint import weights_sha256
from vila2cli.model.loading import LOAD_ERRORS, NO_CODE, quiet_transformers
from vila2cli.model.ready import Preparer, release
from vila2cli.model.reference import ASKED, HASTENED, TALL, WIDE, trial_picture
from vila2cli.model.tiles import cuts_itself, most_tokens
from vila2cli.run.stopping import Stop
from vila2cli.settings import AskedSettings

_WAIT_S = 0.5  # between two looks at whether vLLM's process lives, and whether a signal came
_ENDS = ("stop", "length")
_REFUSALS: tuple[type[Exception], ...] = (DataError, ValueError, TypeError, AssertionError, OSError)


class VllmEngine:
    """A checkpoint in vLLM, which never drains while requests are left."""

    name = "vllm"
    dollars = 0.0
    num_fewer_tiles = 0

    def __init__(self, model: str, folder: Path, settings: EngineSettings, stop: Stop) -> None:
        self.model = model
        self.model_sha256 = weights_sha256(folder)
        self.notes: list[str] = []
        self._asked, self._stop = settings.asked, stop
        self.device_kind: DeviceKind = "gpu" if self._on_gpu else "core"
        self.num_devices = torch.get_num_threads()
        try:
            self._load(folder, settings)
        except UnaskableError:
            raise
        except ModelError as error:  # from the first token
            raise ModelError(f"vLLM cannot load {folder}: {one_line(error.__cause__ or error)}") from error
        except LOAD_ERRORS as error:
            raise ModelError(f"vLLM cannot load {folder}: {one_line(error)}") from error

    @property
    def _on_gpu(self) -> bool:
        return torch.cuda.is_available()

    @property
    def _has_own_process(self) -> bool:
        """Whether the engine core is a process apart from this one."""
        return self._on_gpu

    def _load(self, folder: Path, settings: EngineSettings) -> None:
        quiet_transformers()
        self._chat = fitting(folder, settings.asked)
        if self._chat.whole:
            raise ModelError(
                "its processor lays out every prompt with its pictures, and vLLM does not ask it to"
            )
        self._most_images = settings.max_images
        self._asks_once = settings.requests_per_image == settings.parts == 1
        self.preparing = Preparing(workers=settings.machine.workers)
        config = AutoConfig.from_pretrained(folder, **NO_CODE)
        plan = place(folder, settings) if self._on_gpu else None
        if plan is not None:
            self.num_devices = plan.per_replica
        image_tokens = most_tokens(folder)
        self._context = context_on(config, settings, plan, image_tokens)
        check_turning(config, self._context)
        self._eos = eos_token_ids(stated_ends(folder, config), self._chat)
        options = engine_options(config, settings, self._context, plan, image_tokens)
        options |= pixel_options(self._chat, settings.asked)
        with quiet():
            self._engine = _start(folder, options, on_gpu=self._on_gpu, own_process=self._has_own_process)
            if self._has_own_process:
                self._keep_socket()
            self._adapters = {"": None, **_lora_requests(settings.adapters)}
            for adapter in settings.adapters:
                self._engine.add_lora(self._adapters[adapter])
            self._warm_up()
        # Once and for all: going in and out of quiet for every request takes a third of the time.
        logging.getLogger("vllm").setLevel(logging.CRITICAL)
        batch_size = int(self._engine.vllm_config.scheduler_config.max_num_seqs)
        self._window = 2 * batch_size
        why = "as set" if settings.batch_size else "vLLM's own"
        self.notes.append(f"batch size {batch_size} ({why})")

    def _keep_socket(self) -> None:
        """Have vLLM's socket to the engine's process closed when vLLM's client goes, and not before.

        When the process dies, vLLM closes it from another thread. A socket that is closed while it sends
        crashes this process, or keeps it from ever ending.
        """
        client = self._engine.engine_core
        client.resources.input_socket = None
        client.input_socket.linger = 0  # else messages for a process that died would be waited for
        weakref.finalize(client, client.input_socket.close)

    def generate(self, requests: Iterable[AnyRequest]) -> Iterator[Result]:
        """Yield results as they finish, keeping at most twice the batch size queued.

        Scores come from the log-probabilities that vLLM gives of a prompt.
        """
        waiting = iter(requests)
        queued: dict[str, AnyRequest] = {}
        window = Window(self._window)
        serial = 0
        try:
            while True:
                while window.has_room and (request := next(waiting, None)) is not None:
                    serial += 1
                    error = self._queue(str(serial), request)
                    if error is None:
                        queued[str(serial)] = request
                        window.open(serial, request)
                    else:
                        yield failed(request, error)
                if not queued:
                    return
                for output in self._step():
                    window.close(int(output.request_id))
                    yield self._result(queued.pop(output.request_id), output)
        finally:
            if queued:  # the caller stopped early
                self._engine.abort_request(list(queued))

    def _warm_up(self) -> None:
        """Generate one token, so that kernels that do not fit the model fail while loading."""
        request = Request(id="", messages=(), max_new_tokens=1)
        params = self._generation_params(request, 1)
        self._engine.add_request("warm-up", {"prompt_token_ids": self._eos[:1]}, params)
        while not self._step():
            pass
        if self._chat.takes_images:
            takes_ready = self._can_take_ready()
            wide, tall = trial_picture(WIDE), trial_picture(TALL)
            several = self._most_images != 1 and self._chat.most_images is None
            for images in ((wide,), (tall, wide)) if several else ((wide,),):
                self._compare_ids(Request(id="", messages=ASKED, images=images, max_new_tokens=1))
            self._take_ready(takes_ready)

    def _can_take_ready(self) -> bool:
        """Whether vLLM can be handed what is made of pictures here; raises ModelError where it has to be."""
        try:
            take_ready(self._engine, self._chat)
        except (AttributeError, TypeError, ImportError):
            if cuts_itself(self._chat.processor):
                raise ModelError("this version of vLLM cannot be told which tiles CATTY cuts") from None
            return False
        return True

    def _take_ready(self, takes_ready: bool) -> None:
        """Have pictures made ready in other threads, where vLLM takes them as it takes their pixels."""
        if normalises_itself(self._engine):
            self._chat.pictures.keep_levels([trial_picture(size) for size in HASTENED])
        preparer = Preparer(self._chat)
        ids = self._chat.prompt_ids(ASKED, (trial_picture(WIDE),), expand=False)
        if not (takes_ready and takes_alike(self._engine, ids, preparer)):
            preparer.makes_tensors = False
            self.notes.append("vLLM makes pictures ready in its own thread: of this model it takes no others")
        self.preparing = replace(self.preparing, decode=preparer)

    def _compare_ids(self, request: Request) -> None:
        """Raise ModelError where vLLM gives the model other ids for pictures than its own processor does."""
        shown = with_system(request, self._asked.system)
        expected = self._chat.prompt_ids(shown.messages, shown.images)
        if len(expected) >= self._context:  # no picture like that will be asked about
            return
        if (error := self._queue("warm-up", request)) is not None:
            raise ModelError(f"it does not take a picture: {error}")
        while not (outputs := self._step()):
            pass
        if list(outputs[0].prompt_token_ids) != expected:
            raise ModelError("it puts other tokens in the place of a picture than the model's own processor")

    def _step(self) -> list[Any]:
        self._stop.check()
        self._await_output()
        try:
            with torch.compiler.set_stance("force_eager"):  # vLLM compiles a log-prob helper: 4 to 20 s
                return [output for output in self._engine.step() if output.finished]
        except _engine_errors() as error:
            raise ModelError(
                f"vLLM failed on {self.model}: {one_line(error)}; run the same command again, "
                "with a smaller batch_size if memory ran out"
            ) from error

    def _await_output(self) -> None:
        """Wait for the engine's process to answer; vLLM itself would wait for good for one that was killed."""
        if not self._has_own_process:
            return
        client = self._engine.engine_core
        outputs = client.outputs_queue
        while outputs.empty():
            self._stop.check()
            if client.resources.engine_dead:
                raise ModelError(
                    f"vLLM's process for {self.model} died, killed by the system if memory ran out; "
                    "run the same command again"
                )
            with outputs.not_empty:
                outputs.not_empty.wait_for(lambda: outputs.queue, _WAIT_S)

    def _queue(self, serial: str, request: AnyRequest) -> str | None:
        """Hand a request to vLLM; the error text when vLLM would not have it."""
        try:
            request = with_system(request, self._asked.system)
            request, is_in_fewer = in_fewer_tiles(self._chat, request, self._context, self.notes)
            self.num_fewer_tiles += is_in_fewer
            if isinstance(request, ScoreRequest):
                ids, params = self._to_score(request)
            else:
                ids, params = self._to_generate(request)
            prompt = prompt_of(ids, request.images)
            self._engine.add_request(serial, prompt, params, lora_request=self._adapters.get(request.adapter))
            if self._asks_once:
                release(request.images)  # vLLM has them
        except _REFUSALS + _engine_errors() as error:
            return one_line(error)
        return None

    def _to_generate(self, request: Request) -> tuple[list[int], Any]:
        """The ids of a prompt, one per image, and its SamplingParams."""
        num_prompt = len(self._chat.prompt_ids(request.messages, request.images))
        room = room_for_answer(self._context, num_prompt, len(request.images))
        ids = self._chat.prompt_ids(request.messages, request.images, expand=False)
        return ids, self._generation_params(request, room)

    def _generation_params(self, request: Request, room: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed if request.temperature > 0 else None,
            max_tokens=min(request.max_new_tokens, room),
            stop_token_ids=self._eos,
            logprobs=0,
            flat_logprobs=True,  # numbers in lists: an object for every token costs 3% of a small model's time
            detokenize=bool(self._asked.stop),
            stop=list(self._asked.stop),
            top_k=self._asked.top_k or -1,
            min_p=self._asked.min_p,
            repetition_penalty=self._asked.repetition_penalty,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=None
            if request.schema is None
            else StructuredOutputsParams(json=dict(request.schema)),
        )

    def _to_score(self, request: ScoreRequest) -> tuple[list[int], Any]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        ids, _ = scored_ids(self._chat, request, self._context, expand=False)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,  # vLLM generates at least one
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        return ids, params

    def _result(self, request: AnyRequest, output: Any) -> Result:
        completion = output.outputs[0]
        if completion.finish_reason not in _ENDS:
            return failed(request, f"vLLM ended the answer with {completion.finish_reason}")
        if isinstance(request, ScoreRequest):
            return self._scored(request, output)
        tokens = list(completion.token_ids)
        logprob = completion.cumulative_logprob
        return answered(
            request,
            text=self._chat.reply(tokens, self._asked.stop),
            num_tokens=len(tokens),
            finish_reason=completion.finish_reason,
            logprob_mean=None if logprob is None or not tokens else logprob / len(tokens),
        )

    def _scored(self, request: ScoreRequest, output: Any) -> Result:
        ids, num_text = self._chat.scored_ids(request.messages, request.images, request.text, expand=False)
        tail = zip(ids[-num_text:], output.prompt_logprobs[-num_text:], strict=True)
        return Result(id=request.id, token_logprobs=tuple(known[token].logprob for token, known in tail))


@functools.cache
def _engine_errors() -> tuple[type[Exception], ...]:
    """What vLLM's engine raises: its own are one family in newer versions, classes apart in older ones."""
    from vllm import exceptions
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    family = getattr(exceptions, "VLLMError", EngineDeadError)
    return RuntimeError, EngineDeadError, EngineGenerateError, family


def _start(folder: Path, options: dict[str, Any], *, on_gpu: bool, own_process: bool) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.executor import Executor

    # An engine that nobody holds any more ends vLLM's process groups when it goes: now, not under this one.
    gc.collect()
    engine_config = EngineArgs(model=str(folder), **options).create_engine_config()
    if not on_gpu:
        # vLLM looks for such a kernel on GPUs alone; on a CPU it would answer without a word.
        if getattr(engine_config.model_config, "is_mm_prefix_lm", False):
            raise ValueError("its tokens of a picture see each other, for which vLLM has no kernel on a CPU")
        # The CPU platform asks for worker processes unless an environment variable says otherwise.
        engine_config.parallel_config.distributed_executor_backend = "uni"
    return LLMEngine(
        vllm_config=engine_config,
        executor_class=Executor.get_class(engine_config),
        log_stats=False,
        multiprocess_mode=own_process,
    )


def pixel_options(chat: Chat, asked: AskedSettings) -> dict[str, Any]:
    """How vLLM is told of the pixels that pictures are scaled to; nothing where the model's own bounds hold."""
    if not (asked.min_pixels or asked.max_pixels):
        return {}
    size = chat.processor.image_processor.size
    bounds = {name: int(size[name]) for name in ("shortest_edge", "longest_edge")}
    return {"mm_processor_kwargs": {"size": bounds}}


def _lora_requests(adapters: Sequence[str]) -> dict[str, Any]:
    """What goes with a request to an adapter, by the adapter."""
    if not adapters:
        return {}
    from vllm.lora.request import LoRARequest

    return {one: LoRARequest(one, i, str(Path(one).absolute())) for i, one in enumerate(adapters, start=1)}
