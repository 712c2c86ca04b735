"""Low-rank adapters on the LLM for one phase of training, merged into the checkpoint at its end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from vila2cli.errors import ModelError
from vila2cli.model.adapter import ADAPTER
from vila2cli.model.freeze import parts_of
from vila2cli.model.loading import is_tied
from vila2cli.model.saving import writing
from vila2cli.settings import TrainSettings


@contextmanager
def adapted(
    model: PreTrainedModel, settings: TrainSettings, folder: Path | None, *, seed: int
) -> Iterator[None]:
    """Within the block the LLM has adapters when the settings train the part "lora"; else nothing happens.

    After it the model is a plain one again, with the adapters merged into its weights, and the adapter
    itself lies in `folder/adapter` (None: it is not written): over the weights before this phase it gives
    the same LLM, so that one engine can serve several. Raises ModelError without the peft package or when
    no layer fits.
    """
    if "lora" not in settings.train:
        yield
        return
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ModelError(
            "training the part lora needs the peft package: pip install 'vila2cli[lora]'"
        ) from None
    torch.manual_seed(seed)
    names = adapted_layers(model, settings.lora.targets)
    config = LoraConfig(r=settings.lora.rank, lora_alpha=settings.lora.alpha, target_modules=names)
    wrapped: Any = get_peft_model(model, config)
    yield
    if folder is not None:
        with writing(folder / ADAPTER):
            wrapped.save_pretrained(folder / ADAPTER, save_embedding_layers=False)  # they are the base's own
            (folder / ADAPTER / "README.md").unlink(missing_ok=True)
    merged = wrapped.merge_and_unload()
    assert merged is model, "peft merges in place"


def adapted_layers(model: PreTrainedModel, targets: tuple[str, ...]) -> list[str]:
    """The linear layers of the LLM whose name ends in one of `targets`; towers have some of equal names.

    Raises ModelError where there are none, and for the head of a tied LLM: what is merged into it would be
    merged into the word embeddings as well, which have no adapter while training.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    parts = parts_of(model)
    linear = [name for name in linear if parts[f"{name}.weight"] == "llm"]
    found = [name for name in linear if name.rpartition(".")[2] in targets]
    if not found:
        own = sorted({name.rpartition(".")[2] for name in linear})
        raise ModelError(f"the LLM has no layer named {', '.join(targets)}; lora.targets: {', '.join(own)}")
    words, parameters = model.get_input_embeddings(), dict(model.named_parameters(remove_duplicate=False))
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in targets and module is words:
            raise ModelError(f"lora.targets: {name} is no linear layer; adapters are for those alone")
    if is_tied(model) and (head := next((n for n in found if parameters[f"{n}.weight"] is words.weight), None)):
        raise ModelError(
            f"lora.targets: {head} is one matrix with the word embeddings in this LLM (tie_word_embeddings), "
            "so an adapter on it cannot be merged; leave it out, or train the part llm"
        )
    return found
