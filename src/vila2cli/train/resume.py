"""Checkpoints to go on from: everything that a training is made of at one step, and nothing pickled.

A checkpoint is a folder `checkpoint-PHASE-STEP` in the stage's partial output: weights, optimizer state
and random states as safetensors, and where the plan stands as JSON. It does not depend on the number of
processes: a training goes on with another number of them, and only dropout is then drawn differently.

`Accelerator.save_state` is not used: it pickles the optimizer (optimizer.bin) and the random states
(random_states_0.pkl), and under FSDP2 and ZeRO what it writes is for as many processes as wrote it.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from vila2cli.errors import RecipeError
from vila2cli.files import read_json, sync_folder, sync_whole
from vila2cli.model.saving import writing
from vila2cli.run.changes import difference
from vila2cli.run.folder import OURS, check_same, to_manifest, write_json
from vila2cli.train import zero
from vila2cli.train.distribution import Ranks, give_up_weights, put, whole

MARKER = "requeue.json"
"""Tells job scripts that a training was stopped and is to be started again; torchrun hides exit codes."""
_INPUTS = "resume.json"


@dataclass(slots=True)
class Cursor:
    """How far a stage has come: steps of a phase, what they saw, and the figures of the phases before."""

    phase: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    seen: dict[str, dict[str, float]] = field(default_factory=dict)
    num_places: int = 0
    num_idle: int = 0
    seconds: float = 0.0
    waited_for_pictures: float = 0.0
    pictures_waited: float = 0.0
    finished: list[dict[str, Any]] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one stage in its partial output folder."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self._folder, self._ranks = folder, ranks
        self.cursor = Cursor()

    def open(self, inputs: Mapping[str, Any]) -> None:
        """Find the newest checkpoint, and start over where there is none.

        Raises RecipeError when it was made from other inputs.
        """
        self._ranks.first(lambda: self._claim(inputs))
        if found := self._all():
            self.cursor = Cursor(**read_json(found[-1] / "state.json"))

    def _claim(self, inputs: Mapping[str, Any]) -> None:
        path, mine = self._folder / _INPUTS, to_manifest(inputs).inputs
        stored = read_json(path) if path.is_file() else {}
        if not stored or difference(stored, mine):
            if self._all():
                check_same(self._folder, stored, mine)
                raise RecipeError(f"{self._folder} was made from other inputs; remove it to start over")
            for left in [path for path in self._folder.iterdir() if path.name != OURS]:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            write_json(path, mine)
        (self._folder / MARKER).unlink(missing_ok=True)
        for partial in self._folder.glob("checkpoint-*.partial"):
            shutil.rmtree(partial)

    def _all(self) -> list[Path]:
        found = [path for path in self._folder.glob("checkpoint-*") if path.suffix != ".partial"]
        return sorted(found, key=lambda path: tuple(map(int, path.name.split("-")[1:])))

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, *, stopped: str = "") -> None:
        """Keep this moment, unless it is kept already, and remove older ones; all processes call it together.

        A training that was `stopped` leaves its marker before any process goes on: torchrun ends the others
        when the first one has ended.
        """
        name = f"checkpoint-{self.cursor.phase}-{self.cursor.step}"
        if not self._ranks.first((self._folder / name).is_dir):
            self._write(name, model, optimizer)
        if stopped:
            self.interrupt(stopped)
        self._ranks.meet("writing a checkpoint")

    def _write(self, name: str, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        with self._ranks.together("writing a checkpoint"):
            weights = whole_weights(model, self._ranks)
            state = {} if optimizer is None else _optimizer_tensors(model, optimizer, self._ranks)
            states = self._ranks.gather_bytes(_random_state(self._ranks.device))
        random = {str(i): one for i, one in enumerate(states)}
        tensors = {"model": weights, "optimizer": state, "random": random}
        self._ranks.first(lambda: self._write_files(name, tensors))

    def _write_files(self, name: str, tensors: Mapping[str, dict[str, Tensor]]) -> None:
        """Write a checkpoint aside and put it in its place; raises DataError where that is not possible."""
        partial = self._folder / f"{name}.partial"
        with writing(partial):
            partial.mkdir()  # its folder was there when the training began, and others rely on what is in it
            for stem, values in tensors.items():
                save_file(values, partial / f"{stem}.safetensors")
            (partial / "state.json").write_text(json.dumps(asdict(self.cursor)))
            sync_whole(partial)
            older = self._all()
            partial.rename(self._folder / name)
            sync_folder(self._folder)
            for path in older:
                shutil.rmtree(path)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> bool:
        """Put the newest checkpoint's weights, optimizer and random state in place; False without one."""
        found = self._all()
        if not found:
            return False
        with self._ranks.together("reading a checkpoint"):
            self._load_weights(model, found[-1])
            if optimizer is not None:
                with safe_open(found[-1] / "optimizer.safetensors", "pt") as file:
                    self._load_optimizer(model, optimizer, file)
        self.restore_random()
        return True

    def _load_weights(self, model: nn.Module, folder: Path) -> None:
        with safe_open(folder / "model.safetensors", "pt") as file, torch.no_grad():
            for name, tensor in _tensors(model).items():
                if zero.is_in_parts(tensor):
                    zero.put(tensor, file.get_tensor(name))
                else:
                    tensor.copy_(put(self._read(file, name, tensor), tensor, tensor.device))

    def _read(self, file: Any, name: str, into: Tensor) -> Tensor | None:
        """A tensor of a file, read by the first process alone where it goes into parts."""
        if isinstance(into, DTensor) and not self._ranks.is_first:
            return None
        tensor: Tensor = file.get_tensor(name)
        return tensor

    def _load_optimizer(self, model: nn.Module, optimizer: torch.optim.Optimizer, file: Any) -> None:
        parameters = dict(model.named_parameters())
        is_fused = bool(optimizer.defaults.get("fused"))
        for key in sorted(file.keys()):  # in the same order in all processes
            name, _, what = key.rpartition("/")
            parameter = parameters[name]
            if zero.is_in_parts(parameter):
                zero.put_state(optimizer, parameter, what, file.get_tensor(key))
                continue
            if what != "step":
                value = put(self._read(file, key, parameter), parameter, parameter.device)
            else:
                value = file.get_tensor(key).to(parameter.device if is_fused else "cpu")
            optimizer.state[parameter][what] = value

    def restore_random(self) -> None:
        """Let the generators go on where they were; a process that was not there keeps its own seed."""
        states = load_file(self._all()[-1] / "random.safetensors")
        if (state := states.get(str(self._ranks.index))) is not None:
            cpu, device = len(torch.get_rng_state()), self._ranks.device
            torch.set_rng_state(state[:cpu])
            if device.type == "cuda" and len(state) > cpu:
                torch.cuda.set_rng_state(state[cpu:], device)

    def interrupt(self, reason: str) -> None:
        """Leave the marker that says: start the same command again."""
        if self._ranks.is_first:
            cursor = {"phase": self.cursor.phase, "step": self.cursor.step, "processes": self._ranks.count}
            write_json(self._folder / MARKER, {"reason": reason, **cursor})

    def clear(self) -> None:
        """Remove what only a resumed training needs, once it is done and in its place."""
        for path in self._all():
            shutil.rmtree(path)
        (self._folder / _INPUTS).unlink(missing_ok=True)


def whole_weights(model: nn.Module, ranks: Ranks) -> dict[str, Tensor]:
    """A model's weights on the CPU, whole, for the first process; all have to call it together."""
    return _gathered(_tensors(model), ranks)


def renewed(model: PreTrainedModel, ranks: Ranks) -> PreTrainedModel:
    """The model itself, or where its weights are in parts a new one on the CPU.

    The first process has its weights whole, the others have none, see `give_up_weights`; after ZeRO, which
    does not hand them out, all have them, in float32.
    """
    is_zero = any(zero.is_in_parts(parameter) for parameter in model.parameters())
    if not is_zero and not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    with ranks.together("gathering the weights"):
        weights = _gathered(_tensors(model), ranks, everywhere=is_zero)
    with no_init_weights():
        plain = type(model)(model.config)
    formats = {name: tensor.dtype for name, tensor in _tensors(model).items()}
    for name, tensor in _tensors(plain).items():  # made in its parts' own number formats
        tensor.data = tensor.data.to(formats.get(name, tensor.dtype))
    if weights:
        plain.load_state_dict(weights, strict=False, assign=True)  # tied ones are there once
    else:
        give_up_weights(plain)
    if is_zero:
        plain.float()
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; tied ones once."""
    saved = model.state_dict()
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    return tensors | {name: buffer for name, buffer in model.named_buffers() if name in saved}


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if zero.is_in_parts(parameter):
            state = zero.whole_state(optimizer, parameter)
        else:
            state = optimizer.state.get(parameter, {})
        found |= _gathered({f"{name}/{key}": value for key, value in state.items()}, ranks)
    return found


def _gathered(tensors: Mapping[str, Tensor], ranks: Ranks, *, everywhere: bool = False) -> dict[str, Tensor]:
    """Tensors whole and on the CPU, gathered one by one, for the first process alone or `everywhere`."""
    found = {}
    for name, tensor in tensors.items():
        if ranks.is_first or everywhere:
            found[name] = whole(tensor)
        elif isinstance(tensor, DTensor):
            tensor.full_tensor()
        elif zero.is_in_parts(tensor):
            zero.whole(tensor)
    return found


def _random_state(device: torch.device) -> Tensor:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)
