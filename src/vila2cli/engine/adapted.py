"""LoRA adapters over one loaded model, of which one at a time takes part."""

import warnings
from collections.abc import Sequence
from typing import Any

from vila2cli.errors import ModelError


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
                    warnings.filterwarnings("error", message="Found missing adapter keys")
                    if model is None:
                        model = PeftModel.from_pretrained(net, folder, adapter_name=name, **settings)
                    else:
                        found = model.load_adapter(folder, adapter_name=name, **settings)
                        if found.missing_keys:
                            raise KeyError(f"it lacks {', '.join(found.missing_keys[:3])}")
            except (OSError, ValueError, RuntimeError, KeyError, TypeError, UserWarning) as error:
                reason = " ".join(str(error).split())[:240]
                raise ModelError(f"the adapter {folder} does not fit {net.name_or_path}: {reason}") from error
        self._model = model

    def use(self, folder: str) -> None:
        """Answer as an adapter does, or as the model without any for ""."""
        if not folder:
            self._model.base_model.disable_adapter_layers()
            return
        self._model.base_model.enable_adapter_layers()
        self._model.set_adapter(self._names[folder])
