"""One call of `vila2 filter` with its inputs settled."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2cli.engine import dtype_of
from vila2cli.settings import FilterSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import Source

SCORES_DIR = "scores"


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterJob:
    """What is filtered, into which folder, and by whom.

    `provenance` and `similarity` are full name and SHA-256 of the weights of the vision-language model
    and of the CLIP or SigLIP model, None where it is not asked. `tasks` are the specs behind `held_out`.
    """

    recipe: Recipe
    source: Source
    out_dir: Path
    model: str | None
    provenance: tuple[str, str] | None
    similarity: tuple[str, str] | None
    round: int | None
    tasks: Sequence[str] = ()
    held_out: Source | None = None

    @property
    def settings(self) -> FilterSettings:
        return self.recipe.filter

    @property
    def dtype(self) -> dict[str, Any]:
        """What provenance says of the number format the model runs in, and of the engine's other settings."""
        if self.model is None:
            return {}
        machine = self.recipe.engine_of("filter")
        return {**dtype_of(self.settings.engine, self.model, self.settings.dtype), **machine.decisive()}

    @property
    def scores_dir(self) -> Path:
        return self.out_dir / SCORES_DIR

    @property
    def log_path(self) -> Path:
        return self.out_dir / "log.jsonl"

    @property
    def names(self) -> list[str]:
        """The names of the shards, in order."""
        return [shard.name for shard in self.source.shards]


def control_dir(out_dir: Path) -> Path:
    """Where the random control of a filter layer lies."""
    named = out_dir if out_dir.name not in ("", "..") else out_dir.resolve()
    return named.with_name(f"{named.name}-random")
