"""Free memory, from the files in which Linux tells of it."""

from pathlib import Path

import pytest

from vila2cli.engine.memory import NO_LIMIT, available_memory

GIB = 2**30
MEMINFO = f"MemTotal: {64 * 2**20} kB\nMemFree: 1 kB\nMemAvailable:   {40 * 2**20} kB\nSwapFree: 0 kB\n"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_a_machine_has_what_it_says(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == NO_LIMIT
    write(tmp_path, {"proc/meminfo": MEMINFO})
    assert available_memory(tmp_path) == 40 * GIB
    assert 0 < available_memory() <= NO_LIMIT


@pytest.mark.parametrize(
    ("cgroup", "folder", "names"),
    [
        ("0::/job/step", "sys/fs/cgroup/job", ("memory.max", "memory.current", "inactive_file")),
        (
            "5:cpu:/\n4:memory:/job/step\n0::/",
            "sys/fs/cgroup/memory/job",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_a_job_has_what_its_group_is_left(
    tmp_path: Path, cgroup: str, folder: str, names: tuple[str, str, str]
) -> None:
    limit, used, cache = names
    write(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": f"{cgroup}\n",
            f"{folder}/{limit}": f"{16 * GIB}\n",
            f"{folder}/{used}": f"{10 * GIB}\n",
            f"{folder}/memory.stat": f"anon 5\n{cache} {2 * GIB}\n",
            f"{folder}/step/{limit}": "max\n" if limit == "memory.max" else f"{2**63 - 4096}\n",
            f"{folder}/step/{used}": f"{9 * GIB}\n",
        },
    )
    assert available_memory(tmp_path) == 8 * GIB, "the group above the step's own is the narrow one"
    write(tmp_path, {f"{folder}/step/{limit}": f"{GIB}\n", f"{folder}/step/{used}": f"{2 * GIB}\n"})
    assert available_memory(tmp_path) == 0
