"""The scale benchmark, on a handful of images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]


@pytest.mark.slow
def test_it_measures_sizes_and_workers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    words = ["--sizes", "4", "16", "--workers", "2", "--split-size", "8", "--samples-per-shard", "4"]
    words += ["--model", str(tiny_checkpoint), "--out", str(tmp_path / "scale.json")]
    subprocess.run([sys.executable, str(REPO / "benchmarks" / "scale.py"), *words], check=False, timeout=300)
    found = json.loads((tmp_path / "scale.json").read_text())
    assert [row["images"] for row in found["sizes"]] == [4, 16]
    assert len(found["cpu_seconds_per_further_1k_images"]) == 1
    assert found["workers"][0]["images"] == [4, 4]
    assert found["workers"][0]["largest_share_of_images"] == 1.0
