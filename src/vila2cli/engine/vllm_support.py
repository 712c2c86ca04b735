"""Whether vLLM can run a checkpoint as transformers does, found out before it loads any weights."""

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vila2cli.engine.adapted import check_adapters
from vila2cli.errors import DataError, ModelError, one_line
from vila2cli.files import read_json
from vila2cli.model.adapter import Adapter
from vila2cli.model.loading import NotWholeError, is_tied, outline
from vila2cli.model.tensor_files import tensor_places

_TEXT_CONFIG_TIES = ("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration")
"""vLLM's classes that go by text_config's tie_word_embeddings; the others go by the config's own."""
NOT_INSTALLED = "vLLM is not installed"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep vLLM's log lines and its imports' warnings off the terminal; what matters is raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def why_not(folder: Path, adapters: Sequence[Adapter] = ()) -> str | None:
    """Why vLLM cannot run a checkpoint with these adapters on this machine, None when it can.

    Weights are not read.
    """
    if importlib.util.find_spec("vllm") is None:
        return NOT_INSTALLED
    try:
        with quiet():
            from vllm import ModelRegistry
    except (ImportError, OSError, RuntimeError) as error:
        return f"vLLM is installed but cannot be imported: {one_line(error)}"
    try:
        architectures = read_json(folder / "config.json").get("architectures") or []
    except DataError as error:
        return str(error)
    if not set(architectures) & set(ModelRegistry.get_supported_archs()):
        return f"vLLM does not know {', '.join(architectures) or 'a model without architectures'}"
    if (heads := _other_head(folder, architectures)) is not None:
        return heads
    for adapter in adapters:
        if others := sorted(adapter.parts - {"llm"}):
            return f"vLLM serves adapters of the LLM alone, and {adapter.folder} changes the {others[0]}"
    return None


def check_whole(folder: Path, adapters: Sequence[str] = ()) -> None:
    """Raise ModelError, as the hf engine does, for a checkpoint or adapter that lacks weights or has others.

    vLLM itself starts on a checkpoint without one of the weights that it fuses, and takes what lies in memory.
    """
    try:
        net = outline(folder)
    except NotWholeError:
        raise
    except ModelError:  # it is for vLLM to say what is wrong with it
        return
    if adapters and importlib.util.find_spec("peft") is not None:
        check_adapters(net, adapters)


def _other_head(folder: Path, architectures: Sequence[str]) -> str | None:
    """Why vLLM would answer with another head than was trained, None where it does not.

    A vision-language config says at two places whether the head is the matrix of the word embeddings, and
    vLLM's classes go by another one than transformers'.
    """
    try:
        net = outline(folder)
    except ModelError:
        return None
    config: Any = net.config
    text = config.get_text_config()
    stated = bool(getattr(config, "tie_word_embeddings", False))
    # Of a head that is stored as well vLLM compares the two matrices.
    if text is config or (stated and any(name.endswith("lm_head.weight") for name in tensor_places(folder))):
        return None
    reads_text = set(architectures) & set(_TEXT_CONFIG_TIES)
    tied = bool(getattr(text, "tie_word_embeddings", False)) if reads_text else stated
    if tied == is_tied(net):
        return None
    return (
        f"in {folder / 'config.json'} tie_word_embeddings is not the same as in text_config, and vLLM goes by "
        f"another one than transformers; set both to {str(is_tied(net)).lower()}"
    )
