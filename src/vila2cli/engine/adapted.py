"""LoRA adapters over one loaded model, of which one at a time takes part."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from vila2cli.errors import ModelError
from vila2cli.model.adapter import WEIGHTS_FILE


class Adapted:
    """Adapters put into a transformers model, in place; `use` says whose answers it gives from then on."""

    def __init__(self, net: Any, folders: Sequence[str]) -> None:
        """Raises ModelError without the peft package, or for an adapter that does not fit the model."""
        try:
            from peft import PeftModel
        except ImportError:
            raise ModelError("adapters need the peft package: pip install 'vila2cli[lora]'") from None
        self._names = {folder: f"adapter{number}" for number, folder in enumerate(folders)}
        # The adapters' own float32 is not kept: vLLM runs them in the model's number format as well.
        settings = {"autocast_adapter_dtype": False}
        model: Any = None
        for folder, name in self._names.items():
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="Found missing adapter keys")
                    if model is None:
                        model = PeftModel.from_pretrained(net, folder, adapter_name=name, **settings)
                    else:
                        model.load_adapter(folder, adapter_name=name, **settings)
                _check_whole(model, folder, name)
            except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
                reason = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())[:240]
                raise ModelError(f"the adapter {folder} does not fit {net.name_or_path}: {reason}") from error
        self._model = model

    def use(self, folder: str) -> None:
        """Answer as an adapter does, or as the model without any for ""."""
        if not folder:
            self._model.base_model.disable_adapter_layers()
            return
        self._model.base_model.enable_adapter_layers()
        self._model.set_adapter(self._names[folder])


def check_adapters(net: Any, folders: Sequence[str]) -> None:
    """Raise ModelError where adapters do not fit a model, which may be its outline without weights."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*meta parameter", category=UserWarning)
        Adapted(net, folders)


def _check_whole(model: Any, folder: str, name: str) -> None:
    """Raise KeyError unless the matrices that a folder holds are those that its settings put into the model."""
    with safe_open(Path(folder) / WEIGHTS_FILE, framework="numpy") as weights:
        stored = {key for key in weights.keys() if ".lora_" in key}  # noqa: SIM118  (it is no mapping)
    own = {key.replace(f".{name}", "") for key in model.state_dict() if ".lora_" in key and f".{name}" in key}
    for what, keys in (("it lacks", own - stored), ("the model has no place for", stored - own)):
        if keys:
            raise KeyError(f"{what} {len(keys)} matrices, the first is {min(keys)}")
