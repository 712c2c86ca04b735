"""Fixtures that several test modules share; the models are the package's own tiny ones, not stand-ins."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Third-party images, captions and answers, laid beside the checkout; not part of the repository."""
    folder = Path(os.environ.get("VILA2_TEST_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no third-party test data in {folder}; set VILA2_TEST_DATA to a folder that has it")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled tower and LLM joined by an untrained projector, as a checkpoint folder."""
    from vila2cli.model.build import build
    from vila2cli.settings import BaseSettings

    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    model, processor = build(BaseSettings(), seed=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
