"""The card of an export, and its way to the Hugging Face Hub."""

import os
import re
from pathlib import Path

from vila2cli.errors import DataError, Interrupted, RecipeError
from vila2cli.files import refuse_foreign
from vila2cli.report.export_card import export_card
from vila2cli.run.folder import write_text
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import Source
from vila2cli.shards.credentials import masked

CARD_FILE = "README.md"
_CARD_MARKS = ("- vila2\n", "`vila2 ")
_PREFIX = "hf://datasets/"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
TOKEN = "HF_TOKEN"
_UPLOADED = ("README.md", "data/**", "images/**", "llava.json", "**.tar.json", "*.tar")


def check_repository(place: str) -> str:
    """ORG/NAME of a place to push to; raises RecipeError for any other place, or without a token."""
    name = place.removeprefix(_PREFIX).strip("/")
    if not place.startswith(_PREFIX) or not _NAME.fullmatch(name):
        raise RecipeError(f"--push {masked(place)}: write it as {_PREFIX}ORG/NAME")
    if not os.environ.get(TOKEN):
        raise RecipeError(f"--push needs a token of the Hub that may write, in the environment as {TOKEN}")
    return name


def write_card(folder: Path, form: str, source: Source, recipe: Recipe, *, license: str) -> Path:
    """Write README.md, the card of an export."""
    path = folder / CARD_FILE
    refuse_foreign(path, *_CARD_MARKS)
    write_text(path, export_card(folder, form, source, recipe, license=license))
    return path


def push(folder: Path, repository: str, *, is_public: bool) -> str:
    """Upload an export to a dataset repository, which is made where there is none; returns its address.

    Raises DataError with what the Hub said. What is on the Hub already is not sent again.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=os.environ.get(TOKEN))
    try:
        api.create_repo(repository, repo_type="dataset", private=not is_public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=list(_UPLOADED),
            commit_message="Export from vila2",
        )
    except Interrupted:
        raise
    except Exception as error:  # noqa: BLE001  (the client lets through what its libraries raise)
        raise DataError(f"cannot push {folder} to {repository}: {_one_line(error)}") from None
    return str(commit.commit_url)


def _one_line(error: Exception) -> str:
    text = masked(" ".join(str(error).split())) or type(error).__name__
    return text.replace(os.environ.get(TOKEN) or "\0", "...")[:400]
