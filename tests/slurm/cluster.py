"""A Slurm of one's own: munged, slurmctld and several slurmd on this host, for as long as a test runs."""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIG = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# The second part is also how long a requeued job waits.
AuthInfo=socket={state}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={state}/controller
SlurmdSpoolDir={state}/%n
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/%n.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=20
MinJobAge=3600
SlurmdTimeout=300
PropagateResourceLimits=NONE
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=4 RealMemory=4000
PartitionName=test Nodes=ALL Default=YES PriorityTier=1 DefaultTime=20 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=9 DefaultTime=20 State=UP
"""


def why_not() -> str | None:
    """What stands in the way of a Slurm of one's own here, None when nothing does."""
    missing = [name for name in DAEMONS if _program(name) is None]
    return f"not installed: {', '.join(missing)} (apt install slurm-wlm munge)" if missing else None


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Cluster:
    """Nodes n1, n2, ... with 4 CPUs each that are all this host; partition `urgent` preempts `test`."""

    def __init__(self, state: Path, num_nodes: int = 2) -> None:
        self.state, self.num_nodes = state, num_nodes
        self.config = state / "slurm.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start it and wait until every node is idle."""
        (self.state / "controller").mkdir(parents=True)
        self.state.chmod(0o755)
        key = self.state / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        first = _free_ports(1 + self.num_nodes)
        self.config.write_text(
            CONFIG.format(
                host=socket.gethostname().partition(".")[0],
                user=getpass.getuser(),
                state=self.state,
                nodes=self.num_nodes,
                ports=(first, first + 1, first + self.num_nodes),
            )
        )
        munge = {"key-file": key, "socket": self.state / "munge.socket", "pid-file": self.state / "munge.pid"}
        munge |= {"log-file": self.state / "munge.log", "seed-file": self.state / "munge.seed"}
        self._start("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in munge.items()))
        wait_until(lambda: munge["socket"].exists(), "munged's socket")
        self._start("slurmctld", "-D", "-f", str(self.config))
        for number in range(1, self.num_nodes + 1):
            self._start("slurmd", "-D", "-N", f"n{number}", "-f", str(self.config))
        idle = ["sinfo", "-h", "-N", "-p", "test", "-t", "idle", "-o", "%N"]
        wait_until(lambda: len(self.run(idle, check=False).split()) == self.num_nodes, "idle nodes")

    def stop(self) -> None:
        """Cancel all jobs, so that none outlives its daemon, and end what was started."""
        self.run(["scancel", "--full", "--signal=KILL", "-u", getpass.getuser()], check=False)
        self.run(["scancel", "-u", getpass.getuser()], check=False)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not self.run(["squeue", "-h"], check=False), "an empty queue", timeout_s=30)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def run(self, words: Sequence[str], *, check: bool = True) -> str:
        """The output of one of Slurm's commands."""
        environ = {**os.environ, "SLURM_CONF": str(self.config)}
        found = subprocess.run(words, env=environ, capture_output=True, text=True, check=False, timeout=60)
        assert not check or not found.returncode, (words, found.stderr)
        return found.stdout.strip()

    def states(self) -> dict[str, str]:
        """Every job and array task by its number, as `JOB` or `JOB_TASK`, with its state."""
        lines = self.run(["squeue", "-h", "-r", "--states=all", "-o", "%i %T"]).splitlines()
        return dict(line.split() for line in lines)

    def field(self, job: str, name: str) -> str:
        """One field of `scontrol show job`, such as Restarts or NodeList; empty when it has none."""
        text = self.run(["scontrol", "-o", "show", "job", job])
        return next((word.partition("=")[2] for word in text.split() if word.startswith(f"{name}=")), "")

    def logs(self) -> str:
        """The end of each daemon's log, for the message of a failed test."""
        ends = [f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in self.state.glob("*.log")]
        return "\n".join(ends)

    def _start(self, name: str, *words: str) -> None:
        program = _program(name)
        assert program is not None
        with (self.state / f"{name}-{len(self._daemons)}.log").open("wb") as log:
            self._daemons.append(
                subprocess.Popen(
                    [program, *words],
                    env={**os.environ, "SLURM_CONF": str(self.config)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    umask=0o077 if name == "munged" else -1,
                )
            )


def wait_until(holds: Callable[[], object], what: str, *, timeout_s: float = 60, every_s: float = 0.1) -> None:
    """Return once something holds; raises TimeoutError naming `what` was waited for."""
    end_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end_s:
            raise TimeoutError(f"no {what} after {timeout_s:.0f} s")
        time.sleep(every_s)


def _free_ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    for first in range(20000 + secrets.randbelow(9000), 32000, count):
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
        return first
    raise RuntimeError("no free ports")
