"""What the settings of a stage ask of an engine that holds a checkpoint: system prompt, picture size."""

from dataclasses import replace
from typing import Any

from vila2cli.engine import AnyRequest, Preparing
from vila2cli.errors import UnaskableError
from vila2cli.model.chat import Chat
from vila2cli.model.ready import Preparer
from vila2cli.settings import AskedSettings, MachineSettings, ShownSettings
from vila2cli.shards.sample import Turn


def with_system(request: AnyRequest, system: str) -> AnyRequest:
    """A request whose conversation opens with a system prompt, unless it has one of its own."""
    if not system or (request.messages and request.messages[0].role == "system"):
        return request
    return replace(request, messages=(Turn("system", system), *request.messages))


def chat_for(processor: Any, asked: AskedSettings) -> Chat:
    """The chat of a processor under a stage's settings; raises UnaskableError where it cannot keep them."""
    if asked.min_pixels or asked.max_pixels:
        set_pixels(processor, asked)
    chat = Chat(processor, asked.chat_template)
    if asked.system:
        chat.check_system(asked.system)
    return chat


def preparing_for(chat: Chat, machine: MachineSettings) -> Preparing:
    """How the pictures of requests to a checkpoint are made."""
    return Preparing(Preparer(chat), machine.workers)


def shown_beyond_protocol(asked: ShownSettings) -> dict[str, Any]:
    """What a server's model is shown, in the words of `vllm serve`: OpenAI's protocol has none for it."""
    pixels = {name: value for name in ("min_pixels", "max_pixels") if (value := getattr(asked, name))}
    return {
        **({"chat_template_kwargs": dict(asked.chat_template)} if asked.chat_template else {}),
        **({"mm_processor_kwargs": pixels} if pixels else {}),
    }


def beyond_protocol(asked: AskedSettings) -> dict[str, Any]:
    """All that is set and that OpenAI's protocol has no words for, in those of `vllm serve`."""
    drawn = ("top_k", "min_p", "repetition_penalty")
    return {
        **shown_beyond_protocol(asked),
        **{name: value for name, value in asked.inputs().items() if name in drawn},
    }


def set_pixels(processor: Any, asked: AskedSettings) -> None:
    """Let the image processor scale pictures to the pixels asked for; raises UnaskableError where it cannot.

    Those of models of native resolution keep them as `size`, under the names that Qwen2-VL's gave them.
    """
    images: Any = getattr(processor, "image_processor", None)
    known = getattr(getattr(images, "valid_kwargs", None), "__annotations__", {})
    size = dict(getattr(images, "size", None) or {})
    # Where pictures keep their shape in merged patches the edges are areas, elsewhere they are sides.
    if "merge_size" not in known or not {"shortest_edge", "longest_edge"} <= set(size):
        raise UnaskableError(
            f"{type(images or processor).__name__} has no min_pixels and max_pixels, as models of native "
            "resolution have; data.max_pixels scales pictures down for any model"
        )
    least, most = asked.min_pixels or size["shortest_edge"], asked.max_pixels or size["longest_edge"]
    if least > most:
        problem = f"min_pixels {least:,} is above max_pixels {most:,}, one of which is the model's own"
        raise UnaskableError(problem)
    images.size = type(images.size)(**{**size, "shortest_edge": least, "longest_edge": most})
