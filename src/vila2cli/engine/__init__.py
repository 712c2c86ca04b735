"""Text and scores behind one protocol: requests go in as a stream, results come out as they finish.

Three engines implement it. `hf` (transformers) gives byte-identical text however the shards are
split over workers, because its batches never cross a request's group; `vllm` keeps its batch full
across groups and is the fast one on large models. Both read a stock transformers checkpoint. `api`
asks any server that speaks OpenAI's chat completions.

devices, placing and plans say which GPUs a model's engines get; trial tries out a class that no test knows.
"""

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image

from vila2cli.errors import ModelError, UnaskableError
from vila2cli.image import Decode, decode_image
from vila2cli.model.adapter import base_of, is_adapter, read_adapter
from vila2cli.model.checkpoint import model_name, own_dtype, resolve_model, weights_sha256
from vila2cli.run.stopping import Stop
from vila2cli.settings import ApiSettings, AskedSettings, MachineSettings, Workers
from vila2cli.shards.credentials import masked
from vila2cli.shards.places import redacted
from vila2cli.shards.sample import Turn
from vila2cli.text.reasoning import Answer, answer_of

FinishReason = Literal["stop", "length", "error"]
DeviceKind = Literal["core", "gpu", "server"]
Failure = Literal["", "request", "unanswered", "filtered", "budget"]
"""Why there is no text: the request cannot be taken, no answer came, one came and was withheld, or the budget
is spent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One conversation to continue.

    `images` stand where the turns' text has IMAGE_PLACEHOLDER (images without one come first).
    `temperature` 0 is greedy. `seed` alone decides the noise of a sampled request, whatever it is
    batched with. `group` is a shard's URL and `part` the layer that is written: the hf engine never batches
    two groups or two parts together. `adapter` is one of those the engine was opened with, "" for the
    checkpoint alone. `image_sha256s` are the digests of
    the files that the images were decoded from, under which an answer is kept (see `ask.kept_answers`).
    `schema` is a JSON schema that the answer has to fit: vllm and api hold the model to it, hf does not.
    """

    id: str
    messages: tuple[Turn, ...]
    images: tuple[Image.Image, ...] = ()
    image_sha256s: tuple[str, ...] = ()
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    group: str = ""
    part: str = ""
    adapter: str = ""
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came back for a request; `error` and `failure` are set, and the rest is empty, without an answer.

    `text` is all that was generated, reasoning included, and `answer` what of it is meant as the answer.
    `num_tokens` counts generated tokens, the end token included. `logprob_mean` is in nats per
    generated token under the model's own distribution, before temperature and top-p; of an answer that vLLM
    holds to a schema, among the tokens that the schema allows (findings/vllm_grammar_logprobs.sh).
    `token_logprobs` is what a ScoreRequest gets instead: nats for every token of its text, the end token left
    out.
    """

    id: str
    text: str = ""
    num_tokens: int = 0
    finish_reason: FinishReason = "stop"
    logprob_mean: float | None = None
    token_logprobs: tuple[float, ...] = ()
    error: str | None = None
    failure: Failure = ""

    @property
    def answer(self) -> Answer:
        """The text without the model's reasoning; empty where the reasoning was cut off."""
        return answer_of(self.text, reached_limit=self.finish_reason == "length")

    @property
    def is_cut(self) -> bool:
        """Whether generation ended before the answer did."""
        return self.finish_reason == "length" or self.answer.is_cut


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """How likely is `text` as the answer to `messages` over `images`; the rest is as in a Request."""

    id: str
    messages: tuple[Turn, ...]
    images: tuple[Image.Image, ...] = ()
    image_sha256s: tuple[str, ...] = ()
    text: str
    group: str = ""
    part: str = ""
    adapter: str = ""


AnyRequest = Request | ScoreRequest

_CONTEXT = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What an engine needs to know apart from the model; `dtype` "auto" takes the checkpoint's own."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: int = 128  # requests decoded together at most (vLLM: max_num_seqs); 0 for what fits
    max_model_len: int = 0  # tokens of prompt plus answer; 0 for that of `machine`, else the checkpoint's own
    planned_context: int = _CONTEXT  # tokens that vLLM has room for wherever the checkpoint allows them
    max_images: int = 0  # per request, vLLM refuses more; 0 for as many as the context holds
    adapters: tuple[str, ...] = ()  # folders of LoRA adapters over the checkpoint, all held at once
    requests_per_image: int = 2  # asked one after the other; prepared images are kept where it is more than one
    parts: int = 1  # layers that are written in the same pass
    asked: AskedSettings = field(default_factory=AskedSettings)  # of every request, beside what it says itself
    api: ApiSettings = field(default_factory=ApiSettings)
    api_key: str = field(default="", repr=False)
    fails_alone: bool = False  # what a server never answers fails, also while it answers nothing else
    machine: MachineSettings = field(default_factory=MachineSettings)

    @property
    def context_limit(self) -> int:
        """Tokens of prompt plus answer that were set as the most; very many where none were."""
        return self.max_model_len or self.machine.max_model_len or 2**31


def context_for(num_images: int) -> int:
    """Tokens of context that requests with so many images are planned for: 1,024 an image, 8,192 at least."""
    return max(_CONTEXT, 1024 * num_images)


@dataclass(frozen=True, slots=True)
class Preparing:
    """What makes the pictures of an engine's requests, and in how many threads beside the one that asks."""

    decode: Decode = decode_image
    workers: Workers = "auto"


class Engine(Protocol):
    """A loaded model. `notes` are lines for the person at the terminal: which engine runs, and why.

    A stream of requests may run dry and go on: it is asked again once results came out, and has
    ended when it is dry with nothing left in flight. So what follows from a result can be asked too.
    Pictures that `preparing` makes are ready for the model, as far as there is memory for it.
    """

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def model_sha256(self) -> str: ...
    @property
    def num_devices(self) -> int: ...
    @property
    def device_kind(self) -> DeviceKind: ...
    @property
    def notes(self) -> list[str]: ...
    @property
    def preparing(self) -> Preparing: ...
    @property
    def dollars(self) -> float:
        """What a server charged so far, at the prices of [api]; 0 for a model that runs here."""
        ...

    @property
    def num_fewer_tiles(self) -> int:
        """How many requests were shown in fewer tiles than their pictures have, to fit the context."""
        ...

    def generate(self, requests: Iterable[AnyRequest]) -> Iterator[Result]:
        """Yield one result per request, possibly out of order, reading `requests` only a bounded way ahead.

        Raises ModelError where the engine cannot answer, or not score.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine that will run a model, and the reason in a few words."""

    kind: Literal["vllm", "hf", "api"]
    reason: str


def choose_engine(kind: str, model: str | Path, adapters: Sequence[str] = ()) -> EngineChoice:
    """Settle "auto" without loading weights: vLLM when it can be imported and knows the model, else hf.

    vLLM serves `adapters` that change nothing but the LLM, on a CPU slowly: it copies their matrices for
    every token, which took 48 s where hf takes 6 with adapters of rank 64.

    Raises ModelError when the engine asked for by name is not there, or when the model is not.
    """
    if kind == "hf":
        return EngineChoice("hf", "as set")
    if kind == "api":
        return EngineChoice("api", "as set")
    if kind not in ("auto", "vllm"):
        raise ModelError(f"unknown engine {kind!r}; use auto, vllm, hf or api")
    from vila2cli.devices import gpu_names
    from vila2cli.engine.vllm_support import NOT_INSTALLED, why_not

    problem = why_not(resolve_model(model), [read_adapter(adapter) for adapter in adapters])
    if problem is None and kind == "auto" and adapters and not gpu_names({}):
        problem = "vLLM is slow with adapters on a CPU"
    if problem is None:
        return EngineChoice("vllm", "as set" if kind == "vllm" else "vLLM supports this model here")
    if kind == "vllm":
        install = " (pip install 'vila2cli[vllm]')" if problem == NOT_INSTALLED else ""
        raise ModelError(f'the vllm engine cannot run {model}: {problem}{install}; use engine = "hf"')
    return EngineChoice("hf", problem)


def identify(kind: str, model: str | Path, api: ApiSettings | None = None) -> tuple[str, str]:
    """What provenance says of the model behind an engine: its name, and the SHA-256 of its weights.

    Hub ids are named with their commit. Weights behind an API are out of reach: their hash is of the name.
    An adapter's hash is of its base as well.
    """
    if kind == "api":
        name = (api or ApiSettings()).model or str(model)
        return name, hashlib.sha256(f"api {name}".encode()).hexdigest()
    if is_adapter(model):
        return str(model), read_adapter(model).sha256
    return model_name(model), weights_sha256(resolve_model(model))


def dtype_of(kind: str, model: str | Path, dtype: str) -> dict[str, str]:
    """What a manifest and provenance say of the number format a model runs in: {"dtype": "bfloat16"}.

    "auto" is settled here, because vLLM's own runs a float32 checkpoint in half precision. Behind an API
    it is not known, and nothing is said.
    """
    if kind == "api":
        return {}
    return {"dtype": own_dtype(resolve_model(base_of(model))) if dtype == "auto" else dtype}


def open_engine(
    kind: str, model: str | Path, settings: EngineSettings | None = None, stop: Stop | None = None
) -> Engine:
    """Load `model` (a checkpoint folder or a hub id) into the engine `kind`: "auto", "vllm" or "hf".

    With "api" nothing is loaded, and `model` is a name that the server knows, unless `settings.api`
    has one. Raises ModelError with one line when the model is missing, damaged, or not for this engine.
    `stop` is heeded while the model loads, and by the engine wherever it waits.
    """
    settings, stop = settings or EngineSettings(), stop or Stop()
    if kind == "api":
        return _open_api(str(model), settings, stop)
    with stop.at_once():
        return _load(kind, model, settings, stop)


def _load(kind: str, model: str | Path, settings: EngineSettings, stop: Stop) -> Engine:
    folder, name = resolve_model(model), model_name(model)
    settings = replace(settings, **dtype_of(kind, folder, settings.dtype))  # type: ignore[arg-type]
    choice = choose_engine(kind, folder, settings.adapters)
    engine: Engine | None = None
    if choice.kind == "vllm":
        from vila2cli.engine.vllm import VllmEngine
        from vila2cli.engine.vllm_support import check_whole

        check_whole(folder, settings.adapters)
        try:
            engine = VllmEngine(name, folder, settings, stop)
        except UnaskableError:
            raise
        except ModelError as error:
            if kind != "auto":
                raise ModelError(f'{error}; engine = "hf" may be able to') from error
            choice = EngineChoice("hf", str(error))
    from vila2cli.engine.limits import unheeded  # with it comes transformers

    if engine is None:
        _check_for_hf(settings.machine, choice.reason)
        from vila2cli.engine.hf import HfEngine

        engine = HfEngine(name, folder, settings, stop)
    engine.notes.insert(0, f"engine: {engine.name} ({choice.reason})")
    if line := unheeded(folder, settings.asked):
        engine.notes.insert(1, line)
    return engine


def _check_for_hf(machine: MachineSettings, reason: str) -> None:
    """Raise ModelError for settings that would decide the text, and that vLLM alone can follow."""
    options = machine.decisive().get("engine_options", {})
    if names := [name for name in ("quantization", "kv_cache_dtype", "vllm") if name in options]:
        raise ModelError(
            f"engine.{names[0]} is for the vllm engine, and this is the hf engine ({reason}); leave it out, or "
            'set engine = "vllm" for the stage'
        )


def _open_api(model: str, settings: EngineSettings, stop: Stop) -> Engine:
    if importlib.util.find_spec("openai") is None:
        raise ModelError("the api engine needs the openai package: pip install 'vila2cli[api]'")
    from vila2cli.engine.api import ApiEngine

    engine = ApiEngine(
        model, settings.api, settings.api_key, stop, asked=settings.asked, fails_alone=settings.fails_alone
    )
    engine.preparing = Preparing(workers=settings.machine.workers)
    engine.notes.insert(0, f"engine: api ({masked(engine.model)} at {redacted(settings.api.base_url)})")
    return engine
