"""The processes that train one model together: joined, told apart when one stops answering.

Collectives on the CPU (agreements, sums, text) go over gloo, gradients over NCCL where there are GPUs.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vila2cli import errors
from vila2cli.devices import gpu_names
from vila2cli.errors import OutOfMemory, RankError, RecipeError, Vila2Error
from vila2cli.ranks import Rank, number, parse_rank
from vila2cli.train import zero
from vila2cli.train.launch import Launch
from vila2cli.train.meeting import meeting_place, place_of_this_start
from vila2cli.train.placement import open_accelerator
from vila2cli.train.watch import Watch

_OF_COLLECTIVES = ("gloo", "nccl", "timed out", "pair closure", "connection closed", "connection reset")
"""Words of which one is in what a collective says that failed."""
_NAMING_S = 5.0
"""How long a process that is not at fault may take to say so."""
_GRACE_S = 20.0
"""How much longer than `timeout_s` a group waits, so that `Watch` names a process before NCCL ends this one."""
_LEAVING_S = 60.0
"""How long a process with an error waits for the others to have it, too."""


class Ranks:
    """This process among those that train together. With a single one every method is immediate."""

    def __init__(
        self,
        rank: Rank,
        accelerator: Accelerator,
        launch: Launch,
        timeout_s: float = 0.0,
        control: Any = None,
    ) -> None:
        self.index, self.count, self.device = rank.index, rank.count, accelerator.device
        self.accelerator, self.launch = accelerator, launch
        self._timeout_s, self._control = timeout_s, control
        self.watch = Watch(rank.index, rank.count, timeout_s, None if control is None else _store())

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.index == 0

    def meet(self, where: str) -> None:
        """Wait for all others; raises RankError naming those that do not come in time."""
        if self.count > 1:
            self._barrier(where, self._timeout_s)

    def any(self, value: bool) -> bool:
        """Whether it is true for any process."""
        return self.sum([float(value)])[0] > 0

    def sum(self, values: list[float]) -> list[float]:
        """Sums over all processes, each value in double precision."""
        if self.count == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self._control)
        return total.tolist()

    def gather(self, work: Callable[[], Any]) -> list[Any]:
        """What `work` gives on each process, as JSON values, on every one of them.

        A Vila2Error of one is raised by all.
        """
        if self.count == 1:
            return [work()]
        try:
            mine = {"value": work()}
        except Vila2Error as error:
            mine = {"error": type(error).__name__, "message": str(error)}
        with self.naming_the_missing("waiting for what the others found"):
            found = [json.loads(text) for text in self._gather_texts(json.dumps(mine))]
        for answer in found:
            if "error" in answer:
                raise getattr(errors, answer["error"])(answer["message"])
        return [answer["value"] for answer in found]

    def first(self, work: Callable[[], Any]) -> Any:
        """What `work` gives on the first process, which alone does it."""
        return self.gather(lambda: work() if self.is_first else None)[0]

    def gather_bytes(self, value: Tensor) -> list[Tensor]:
        """A vector of bytes of every process, all equally long."""
        found = [torch.empty_like(value) for _ in range(self.count)]
        if self.count == 1:
            return [value]
        dist.all_gather(found, value, group=self._control)
        return found

    def _gather_texts(self, text: str) -> list[str]:
        data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        dist.all_gather(lengths, torch.tensor([len(data)]), group=self._control)
        longest = max(int(length) for length in lengths)
        padded = nn.functional.pad(data, (0, longest - len(data)))
        found = self.gather_bytes(padded)
        return [bytes(one[: int(n)].tolist()).decode() for one, n in zip(found, lengths, strict=True)]

    @contextlib.contextmanager
    def naming_the_missing(self, where: str) -> Iterator[None]:
        """Turn a collective that failed or ran out of time into a RankError that names who is missing."""
        try:
            yield
        except RuntimeError as error:
            is_named = any(word in str(error).lower() for word in _OF_COLLECTIVES)
            if self.count == 1 or not (is_named or isinstance(error, dist.DistError)):
                raise
            self._barrier(where, _NAMING_S, cause=str(error))
            raise

    @contextlib.contextmanager
    def together(self, where: str) -> Iterator[None]:
        """What all processes do together: tell who holds it up, and raise as `naming_the_missing`."""
        with self.naming_the_missing(where), self.watch.over(where):
            yield

    def _barrier(self, where: str, timeout_s: float, cause: str = "") -> None:
        try:
            dist.monitored_barrier(self._control, timedelta(seconds=timeout_s), wait_all_ranks=True)
        except RuntimeError as error:
            who = _who(str(error)) or self.watch.missing() or "another process stopped answering"
            raise RankError(
                f"{where}: {who} (this is process {self.index} of {self.count}); start all of them again to "
                "go on from the last checkpoint"
            ) from (RuntimeError(cause) if cause else None)


def _store() -> Any:
    """Where the processes met; there is no public name for it."""
    return dist.distributed_c10d._get_default_store()


def _who(message: str) -> str:
    """The processes that torch's barrier misses, in words."""
    found = re.search(r"[Rr]anks? ([\d, ]+?) failed to pass", message)
    return f"process {found[1].strip().rstrip(',')} does not answer" if found else ""


def alone(launch: Launch | None = None) -> Ranks:
    """A training of this process alone."""
    launch = launch or Launch()
    return Ranks(Rank(), open_accelerator(Rank(), _device(Rank()), launch), launch)


@contextlib.contextmanager
def joined(launch: Launch, timeout_s: float, rank: Rank | None = None) -> Iterator[Ranks]:
    """Join the other processes of this training, if there are any; leave them in order at the end."""
    rank = parse_rank() if rank is None else rank
    if rank.count == 1 and launch.strategy != "zero":
        yield alone(launch)
        return
    device = _device(rank)
    control = _meet(rank, device, timedelta(seconds=timeout_s + _GRACE_S))
    try:
        yield Ranks(rank, open_accelerator(rank, device, launch), launch, timeout_s, control)
        _leave(control, timeout_s)
    except Vila2Error as error:
        # One of all processes, unless this one alone found it.
        if not isinstance(error, RankError | OutOfMemory):
            _leave(control, _LEAVING_S)
        raise


def _device(rank: Rank) -> torch.device:
    if not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        return torch.device("cpu")
    device = torch.device("cuda", own_gpu(rank.local, gpu_names(os.environ)))
    torch.cuda.set_device(device)
    return device


def own_gpu(local: int, names: Sequence[str]) -> int:
    """Which visible GPU is that of a node's `local`-th process; raises RecipeError where it has none.

    One that sees a single GPU has been given it, as Slurm gives each task its own.
    """
    if 1 < len(names) <= local:
        raise RecipeError(
            f"process {local} of this node has no GPU of its own: {len(names)} are visible, {','.join(names)}; "
            "start as many processes"
        )
    return local % len(names)


def _meet(rank: Rank, device: torch.device, timeout: timedelta) -> Any:
    """Make the group of all processes, which accelerate then takes, and return one for agreements.

    It would not find it itself: it knows no Slurm, asks for one port that may be another training's, and its
    group has no way to name who is missing.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store = _meeting_store(rank, timeout)
        dist.init_process_group(backend, store=store, rank=rank.index, world_size=rank.count, timeout=timeout)
        control = dist.new_group(backend="gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        counted = "RANK and WORLD_SIZE" if rank.address == "env://" else "what its launcher set"
        raise RankError(
            f"process {rank.index} of {rank.count} found no others at {rank.address}: {reason}; start all of "
            f"them together, or unset {counted} where this one is to train alone"
        ) from None
    # Tokenising may take one process hours longer than another; a step's meeting has its own time.
    dist.distributed_c10d._set_pg_timeout(timedelta(days=7), control)
    return control


def _meeting_store(rank: Rank, timeout: timedelta) -> Any:
    """Where the processes of this training find each other, None for the store that torchrun has for them."""
    if rank.count == 1:
        return dist.HashStore()  # type: ignore[attr-defined]
    if rank.address != "env://":
        return meeting_place(rank, timeout)
    if number(os.environ, "TORCHELASTIC_MAX_RESTARTS") == 0:
        return None
    store, _, _ = next(dist.rendezvous(rank.address, timeout=timeout))  # type: ignore[attr-defined]
    return place_of_this_start(os.environ["MASTER_ADDR"], store, timeout, is_first=rank.index == 0)


def _leave(control: Any, timeout_s: float) -> None:
    """Wait for the others, whom leaving before them would abort, and go."""
    with contextlib.suppress(RuntimeError):
        dist.monitored_barrier(control, timedelta(seconds=timeout_s))
    dist.destroy_process_group()


def give_up_weights(model: nn.Module) -> None:
    """Leave a model its parameters' shapes without their values; tied ones stay tied.

    They take no memory while nobody writes to them. On the meta device accelerate's FSDP2 would take all of
    them for one, as it tells the optimizer's parameters apart by their addresses.
    """
    empty = {
        parameter: nn.Parameter(torch.empty_like(parameter, device="cpu"), parameter.requires_grad)
        for parameter in model.parameters()
    }
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            setattr(module, name, empty[parameter])


def whole(tensor: Tensor) -> Tensor:
    """A tensor's values on the CPU, gathered where each process has a part; all processes have to ask."""
    value = tensor
    if isinstance(tensor, DTensor):
        value = tensor.full_tensor()
    elif zero.is_in_parts(tensor):
        value = zero.whole(tensor)
    return value.detach().to("cpu", copy=True)


def put(values: Tensor | None, into: Tensor, device: torch.device) -> Tensor:
    """Values on a device, in parts where another tensor is in parts; those are the first process's values,
    and None will do in the others."""
    if values is None:
        values = torch.empty(into.shape, dtype=into.dtype, device=device)
    values = values.to(device)
    if isinstance(into, DTensor):  # parts of the same number format in every process
        return distribute_tensor(values.to(into.dtype), into.device_mesh, into.placements)
    return values
