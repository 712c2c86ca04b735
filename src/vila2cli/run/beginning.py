"""Beginning anew in a folder where a stage came to nothing, so that it may be run there in another way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vila2cli.run.folder import read_manifest
from vila2cli.shards import done, folder_stats

_LEFT = ("*.stats.json", "*.rejects.jsonl", "*.objects.jsonl", "rejects.jsonl", "summary.json")


def begun_with(out: Path, stage: str) -> Mapping[str, Any]:
    """What a folder was claimed with, nothing where it was not.

    Where that was this stage, and no sample came of it, what it left is removed first.
    """
    stored = read_manifest(out)
    if stored is None:
        return {}
    tars = [out / f"{name}.tar" for name in sorted(done(out))]
    is_all = tars == sorted(out.glob("*.tar"))
    if stored.inputs.get("stage") != stage or not is_all or folder_stats(out).num_out:
        return stored.inputs
    for path in (*tars, *(path for pattern in _LEFT for path in out.glob(pattern)), out / "manifest.json"):
        path.unlink(missing_ok=True)
    return {}
