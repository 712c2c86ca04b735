"""A stage as an sbatch script: plain text that a person may read, edit and submit by hand."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from vila2cli.run.stages import Stage
from vila2cli.settings.slurm import JobSettings, SlurmSettings

_HEAD = """\
#!/usr/bin/env bash
# {title}; made by `vila2 slurm emit`.
"""

_NO_ARRAY = """\
unset "${!SLURM_ARRAY_@}"  # those of a job that this one may have been submitted from

"""

_TRAP = """\
# The time limit and preemption stop the stage where it can go on: it then exits with 75.
stop() { asked=1; signalled=1; [ -z "$step" ] || kill -USR1 "$step" 2>/dev/null; }
asked= step=
trap stop USR1 TERM

"""

_RUN = """\
{step} &
step=$!
[ -z "$asked" ] || stop

# A signal ends `wait` early, so it is asked again for the stage's own exit code.
signalled=1
while [ "$signalled" -eq 1 ]; do signalled=0; wait "$step"; code=$?; done
"""

_CODES = """\
# torchrun tells 1 of every failure: what its processes said counts.
if [ "$code" -ne 0 ] && [ -s "$CODES" ]; then
    code=$(sort -n "$CODES" | tail -n 1)
    grep -qx 75 "$CODES" && code=75
fi
rm -f "$CODES"
"""

_AGAIN = """\
[ -n "$asked" ] && [ "$code" -gt 128 ] && code=75  # stopped before it could handle the signal

again=no
if [ "$code" -eq 75 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_requeues} ]; then
    again=yes
elif [ "$code" -gt 128 ]; then  # killed: out of memory, say
    kills={kills}
    echo "$code" >>"$kills"
    [ "$(wc -l <"$kills")" -le {max_kills} ] && again=yes
fi
# The number of an array stands for all of its tasks.
me=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
me=${{me:-$SLURM_JOB_ID}}
# What was cancelled stays so, and what was preempted is in the queue again.
if [ "$again" = yes ] && scontrol -o show job "$me" | grep -q "JobState=RUNNING"; then
    echo "exit code $code: back into the queue"
    scontrol requeue "$me"
fi
exit "$code"
"""

_RANKS = """\
address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# A node's address need not be its name.
host=$(scontrol -o show node "$address" | sed -n 's/.*[[:space:]]NodeAddr=\\([^[:space:]]*\\).*/\\1/p')
host=${{host:-$address}}
# The next port from the job's own on at which nobody listens.
port=$((20000 + SLURM_JOB_ID % 10000))
while (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; do port=$((port + 1)); done
CODES={codes}
rm -f "$CODES"

# What runs on a node and as a process: words, as neither functions nor variables need reach a step.
# A signal would end torchrun itself; ignored, it is still for the processes to catch.
node='trap "" USR1
exec {torchrun} --nnodes={nodes} --nproc-per-node={processes} --node-rank="$SLURM_NODEID" \\
    --master-addr="$2" --master-port="$3" --no-python bash -c "$1" rank "${{@:4}}"'
rank='"${{@:2}}"
code=$?
[ "$code" -eq 0 ] || echo "$code" >>"$1"
exit "$code"'

"""


def script(stage: Stage, slurm: SlurmSettings, *, run_dir: Path, flags: Sequence[str] = ()) -> str:
    """The sbatch script of a stage; `flags` are the recipe and settings that follow its words.

    It is run from the folder that it is submitted from. What a run needs beside it is in `run_dir/slurm`.
    """
    job = slurm.job(stage.kind)
    command = [*shlex.split(slurm.program), *stage.words, *flags]
    setup = [*([f"module load {shlex.join(job.modules)}"] if job.modules else []), *job.setup]
    parts = [
        _HEAD.format(title=f"vila2 {shlex.join(stage.words)}"),
        *(f"#SBATCH {line}\n" for line in _directives(stage, job, slurm, run_dir)),
        "\n",
        *([] if _is_array(stage, job) else [_NO_ARRAY]),
        _TRAP,
        "\n".join(["set -e", *setup, "set +e", "", ""]) if setup else "",
        *_running(stage, job, slurm, command, run_dir / "slurm"),
        _AGAIN.format(
            max_requeues=slurm.max_requeues,
            max_kills=slurm.max_kills,
            kills=f"{shlex.quote(str(run_dir / 'slurm' / 'logs'))}/killed-$SLURM_JOB_ID",
        ),
    ]
    return "".join(parts)


def num_workers(stage: Stage, slurm: SlurmSettings) -> int:
    """Workers that share the shards of a stage: a process per GPU, in every task of the array."""
    job = slurm.job(stage.kind)
    return max(1, job.array) * max(1, job.gpus) if stage.is_split else 1


def workers_per_task(stage: Stage, slurm: SlurmSettings) -> int:
    """Workers in one task of the array of a stage."""
    return max(1, slurm.job(stage.kind).gpus) if stage.is_split else 1


def submission(scripts: Sequence[tuple[Stage, Path]], *, run_dir: Path) -> str:
    """A shell script that submits the scripts, each after those that it waits for, with sbatch alone."""
    lines = ["#!/usr/bin/env bash", "# Made by `vila2 slurm emit`: submits every stage.", "set -euo pipefail"]
    names = {stage.name: _variable(stage.name) for stage, _ in scripts}
    lines.append(f"mkdir -p {shlex.quote(str(run_dir / 'slurm' / 'logs'))}")
    for stage, path in scripts:
        waits = "".join(f":${names[name]}" for name in stage.after if name in names)
        after = f" --dependency=afterok{waits}" if waits else ""
        lines.append(f"{names[stage.name]}=$(sbatch --parsable{after} {shlex.quote(str(path))})")
    return "\n".join([*lines, f"echo submitted {len(scripts)} jobs", ""])


def _variable(name: str) -> str:
    return "job_" + "".join(c if c.isalnum() else "_" for c in name)


def _directives(stage: Stage, job: JobSettings, slurm: SlurmSettings, run_dir: Path) -> Iterator[str]:
    folder = str(run_dir / "slurm" / "logs").replace("%", "%%")
    logs = f"{folder}/{stage.name}-{'%A_%a' if _is_array(stage, job) else '%j'}.log"
    processes = workers_per_task(stage, slurm)
    if stage.is_training and not job.cpus:  # at least a CPU each; torchrun is one task with those of all
        processes = max(1, job.gpus)
    values: dict[str, str | int | bool] = {
        "job-name": f"{run_dir.name}-{stage.name}",
        "output": logs,
        "open-mode": "append",
        "requeue": True,
        "kill-on-invalid-dep": "yes",
        "signal": f"B:USR1@{slurm.stop_seconds}",
        "account": job.account,
        "partition": job.partition,
        "qos": job.qos,
        "time": job.time,
        "array": f"0-{job.array - 1}" if _is_array(stage, job) else "",
        "nodes": job.nodes,
        "ntasks-per-node": processes,
        "cpus-per-task": job.cpus * (max(1, job.gpus) if stage.is_training else 1),
        "mem": job.mem,
        "gres": job.gres,
        "gpus-per-node": 0 if job.gres else job.gpus,
        **job.options,
    }
    for name, value in values.items():
        if value is True:
            yield f"--{name}"
        elif value or (name in job.options and value is not False):
            yield f"--{name}={shlex.quote(str(value))}"


def _is_array(stage: Stage, job: JobSettings) -> bool:
    return stage.is_split and job.array > 1


def _running(
    stage: Stage, job: JobSettings, slurm: SlurmSettings, command: Sequence[str], folder: Path
) -> Iterator[str]:
    processes = max(1, job.gpus)
    is_torchrun = stage.is_training and job.nodes * processes > 1
    is_shared = stage.is_split and num_workers(stage, slurm) > 1
    per_node = processes if is_shared else 1
    srun = ["srun", f"--ntasks={job.nodes if is_torchrun else per_node}"]
    if is_torchrun:
        # The other nodes may still be writing what the first one to end has been told to save.
        srun += ["--ntasks-per-node=1", "--wait=600"]
    if per_node > 1:
        srun.append("--gpus-per-task=1")
    if job.container:
        srun.append(f"--container-image={job.container}")
    if job.container_mounts:
        srun.append(f"--container-mounts={job.container_mounts}")
    step = f'{shlex.join(srun)} --cpus-per-task="$cpus" --export=ALL'
    if is_torchrun:
        yield _RANKS.format(
            codes=f"{shlex.quote(str(folder / 'logs'))}/codes-$SLURM_JOB_ID",
            torchrun=shlex.join(shlex.split(slurm.torchrun)).replace("'", "'\\''"),  # inside single quotes
            nodes=job.nodes,
            processes=processes,
        )
        step += ' bash -c "$node" node "$rank" "$host" "$port" "$CODES"'
    elif is_shared:
        yield from _worker_lines(processes, num_workers(stage, slurm))
        step += ' bash -c "$worker" worker'
    yield from _cpu_lines(job.cpus * (processes if stage.is_training else 1), per_node)
    yield _RUN.format(step=f"{step} {shlex.join(command)}")
    if is_torchrun:
        yield _CODES
    yield "\n"


def _cpu_lines(cpus: int, tasks: int) -> Iterator[str]:
    """Set `cpus`, those of a task: what was requested, else its share of what the job was given on the node."""
    yield "# srun takes neither from the job unless it is told, and both from the shell that submitted it.\n"
    yield "unset SRUN_CPUS_PER_TASK SRUN_CPUS_PER_GPU SLURM_CPUS_PER_GPU\n"
    if cpus:
        yield f"cpus={cpus}\n\n"
    else:
        yield "cpus=" + (f"$((SLURM_CPUS_ON_NODE / {tasks}))\n" if tasks > 1 else "$SLURM_CPUS_ON_NODE\n")
        yield '[ "${cpus:-0}" -gt 0 ] || cpus=1\n\n'


def _worker_lines(processes: int, count: int) -> Iterator[str]:
    index = f"${{SLURM_ARRAY_TASK_ID:-0}} * {processes} + SLURM_PROCID" if processes > 1 else ""
    part = f"$(({index}))" if index else "$SLURM_ARRAY_TASK_ID"
    yield "# By the number of the task, so that single tasks can be submitted again.\n"
    yield f'worker=\'exec "$@" --worker "{part}/{count}"\'\n\n'
