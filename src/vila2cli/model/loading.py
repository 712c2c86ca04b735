"""Loading weights: the one place that says whether a checkpoint holds all of its architecture.

transformers draws at random what a checkpoint lacks and leaves out what it has no place for. Here both
are refused, but for tensors that take no part: buffers that older versions stored, heads and towers that
the requested class does not have.
"""

import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    PreTrainedModel,
)
from transformers.utils import logging

from vila2cli.errors import RUN_ERRORS as RUN_ERRORS
from vila2cli.errors import ModelError, UnaskableError, one_line
from vila2cli.files import read_json
from vila2cli.model.checkpoint import own_dtype
from vila2cli.model.templates import BY_PROCESSOR
from vila2cli.model.tiles import cutting

LOAD_ERRORS: tuple[type[Exception], ...] = (OSError, *RUN_ERRORS, SafetensorError, StrictDataclassError)
"""What transformers raises for a folder that is damaged, of another kind, or wants a package."""


NO_CODE: Mapping[str, Any] = {"trust_remote_code": False}
"""For whatever reads a folder: else transformers asks at the terminal whether to run a checkpoint's code."""
_OF_SENTENCEPIECE = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
_OF_MODELS = ("torchvision", "num2words", *_OF_SENTENCEPIECE)
"""The packages of the extra `models`."""


class LackingPackageError(UnaskableError):
    """A model that needs a package which is not installed."""


class NotWholeError(ModelError):
    """A checkpoint whose tensors are not those of its architecture."""


_STORED_BUFFERS = re.compile(
    r"(^|\.)(inv_freq|position_ids|token_type_ids|masked_bias|num_batches_tracked|attn\.bias|attention\.bias)$"
)


def reason(error: Exception) -> str:
    """What an error of transformers says of a folder, in one line."""
    if "trust_remote_code" in str(error):
        return "it needs code of its own (trust_remote_code), which is never run; give a class of transformers"
    return one_line(error)


def quiet_transformers() -> None:
    """Keep transformers' own bars and notices out of a stage's output; errors are shown."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_whole(
    kind: Any, folder: Path, *, what: str = "", unused: tuple[str, ...] = (), **options: Any
) -> PreTrainedModel:
    """The model of a folder by `kind`'s from_pretrained, every one of its weights from the folder.

    Tensors whose names begin with one of `unused` may be missing. `what` says in errors what the model was
    to be loaded as. Raises ModelError, in one line, for whatever is wrong with the folder.
    """
    options.setdefault("dtype", own_dtype(folder))  # torch has no defaults of 8 bits, which "auto" may name
    quiet_transformers()
    try:
        net, info = kind.from_pretrained(
            folder,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # what is mismatched is refused below, by name
            **NO_CODE,
            **options,
        )
    except LOAD_ERRORS as error:
        raise ModelError(f"{folder} cannot be loaded {what or 'by transformers'}: {reason(error)}") from error
    if problem := _problem(net, info, unused):
        raise NotWholeError(f"{folder} {problem}")
    assert isinstance(net, PreTrainedModel)
    return net


def load_generator(folder: Path, **options: Any) -> PreTrainedModel:
    """The image-text model of a folder, or the causal LLM where its config is of no such class."""
    config = read_model_config(folder)
    kind = AutoModelForMultimodalLM if _is_image_text(config) else AutoModelForCausalLM
    return load_whole(kind, folder, config=config, **options)


def load_image_text(folder: Path, **options: Any) -> PreTrainedModel:
    """The image-text model of a folder, which goes on from its prompt; raises ModelError for any other."""
    name = architecture(folder)
    if not _is_image_text(read_model_config(folder)):
        raise ModelError(f"{folder}: {name} is not a class of image-text models; give a vision-language model")
    return load_generator(folder, **options)


def architecture(folder: Path) -> str:
    """The name of a folder's class; raises ModelError for one that does not answer after its prompt."""
    config = read_model_config(folder)
    name = next(iter(getattr(config, "architectures", None) or ()), type(config).__name__)
    text = config.get_text_config()
    if config.is_encoder_decoder or getattr(text, "is_encoder_decoder", False):
        raise ModelError(
            f"{name} is not supported: it is an encoder-decoder, not a model that goes on from its prompt; "
            "give one that does, such as a LLaVA or Qwen-VL"
        )
    if not _is_image_text(config) and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"{name} is not supported: transformers has no class for {config.model_type} that answers prompts; "
            "give a vision-language model"
        )
    return str(name)


def _is_image_text(config: Any) -> bool:
    return type(config) in MODEL_FOR_MULTIMODAL_LM_MAPPING


def read_model_config(folder: Path) -> Any:
    """The config of a checkpoint's class, of the part that answers where it speaks too; raises ModelError."""
    quiet_transformers()
    try:
        config = AutoConfig.from_pretrained(folder, **NO_CODE)
    except LOAD_ERRORS as error:
        raise ModelError(f"{folder} cannot be loaded by transformers: {reason(error)}") from error
    if not _is_image_text(config) or type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return config
    parts = [getattr(config, name, None) for name in config.sub_configs]
    return next((part for part in parts if type(part) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING), config)


def load_processor(folder: Path) -> Any:
    """The processor of a folder, of a language model its tokenizer; raises ModelError."""
    quiet_transformers()
    try:
        return cutting(_templated(AutoProcessor.from_pretrained(folder, **NO_CODE)), str(folder))
    except LOAD_ERRORS as error:
        if package := lacking(error, folder):
            raise LackingPackageError(
                f"{folder}: the processor of {_family(folder)} needs {package}, which is not installed: "
                f"pip install {to_install(package)}"
            ) from error
        raise ModelError(f"the processor of {folder} cannot be loaded: {reason(error)}") from error


def _templated(processor: Any) -> Any:
    """A processor, with the chat template of its tokenizer where it has none itself, as servers take it."""
    tokenizer = getattr(processor, "tokenizer", None)
    own = type(processor).__name__ in BY_PROCESSOR or getattr(processor, "chat_template", None)
    if tokenizer is not None and not own:
        processor.chat_template = getattr(tokenizer, "chat_template", None)
    return processor


def to_install(package: str) -> str:
    """What to tell pip for a package; torchvision's releases fit one of torch each, which is to stay."""
    if package == "torchvision":
        return f"'vila2cli[models]' torch=={torch.__version__.partition('+')[0]}"
    return "'vila2cli[models]'" if package.partition(" ")[0] in _OF_MODELS else package


def lacking(error: Exception, folder: Path) -> str | None:
    """The package that an error of transformers says is not installed, by the name that pip knows."""
    text = str(error)
    if re.search(r"tiktoken|Error parsing line", text) and any(folder.glob("*.model")):
        # What transformers cannot read with these two it takes for a file of tiktoken.
        lacking = [name for name, module in _OF_SENTENCEPIECE.items() if not _is_installed(module)]
        if lacking:
            return " and ".join(lacking)
    found = re.search(r"requires the (\w+) library but it was not found", text)
    found = found or re.search(r"[Pp]ackage `(\w+)` is required", text)
    return found[1].lower() if found else None


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of what it is in
        return False


def _family(folder: Path) -> str:
    """The kind of model in a folder, as its config.json names it."""
    config = folder / "config.json"
    kind = read_json(config).get("model_type") if config.is_file() else None
    return f"{kind} models" if isinstance(kind, str) else "this model"


def outline(folder: Path) -> PreTrainedModel:
    """The model of a folder without its weights, whose names and shapes alone are read and checked.

    Raises ModelError as `load_whole` does.
    """
    return load_generator(folder, device_map="meta")


def cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Put a model's weights into a number format, as loading it in that format does.

    What it computes when it is made, such as the frequencies of its positions, stays as exact as it is.
    """
    tables = [
        (module, name, table)
        for module in model.modules()
        for name, table in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set
    ]
    model.to(dtype)
    for module, name, table in tables:
        module._buffers[name] = table
    return model


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the head is the matrix of the word embeddings."""
    head, words = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and getattr(head, "weight", None) is getattr(words, "weight", words)


def _problem(net: Any, info: dict[str, Any], unused: tuple[str, ...]) -> str:
    """What a folder lacks or has too much of, as the rest of a sentence about it; "" for nothing."""
    if missing := sorted(name for name in info["missing_keys"] if not name.startswith(unused)):
        return f"lacks {len(missing)} weights of its architecture, the first is {missing[0]}"
    if mismatched := sorted(info["mismatched_keys"]):
        name, stored, wanted = mismatched[0]
        return (
            f"has {len(mismatched)} weights of another shape than its config.json says, the first is "
            f"{name}: {_shape(stored)} in place of {_shape(wanted)}"
        )
    if failed := sorted(info.get("conversion_errors") or ()):
        return f"has {len(failed)} weights that cannot be converted, the first is {failed[0]}"
    if homeless := sorted(filter(_is_homeless(net), info["unexpected_keys"])):
        return (
            f"has {len(homeless)} weights that the architecture in its config.json has no place for, "
            f"the first is {homeless[0]}"
        )
    return ""


def _is_homeless(net: Any) -> Callable[[str], bool]:
    """Tells a tensor of a part that the model has from one of a part that it does not have.

    A fourth layer of a model of three, or a bias of a layer without, decides what the whole computes; a
    value head, a pooling head or another tower beside it does not.
    """
    modules = {_numberless(name) for name, _ in net.named_modules()} - {""}

    def is_homeless(name: str) -> bool:
        if _STORED_BUFFERS.search(name):
            return False
        words = _numberless(name).split(".")[:-1]
        around = [".".join(words[: end + 1]) for end, word in enumerate(words) if word == "N"]
        return ".".join(words) in modules or any(layer in modules for layer in around)

    return is_homeless


def _numberless(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "N", name)


def _shape(lengths: Any) -> str:
    return " x ".join(map(str, lengths)) or "scalar"
