"""The filter layer and its random control, each written where it is not there as the settings want it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2cli.files import MARK, read_json
from vila2cli.filtering.deciding import scores_digest, select, write_shards
from vila2cli.filtering.job import FilterJob, control_dir
from vila2cli.filtering.outcome import FilterSummary, summarise
from vila2cli.filtering.selection import Selection
from vila2cli.run.changes import difference
from vila2cli.run.folder import Manifest, claim, read_manifest, write_json
from vila2cli.run.progress import Progress
from vila2cli.run.stopping import Stop
from vila2cli.shards import done, open_layer
from vila2cli.shards.places import tar_stem
from vila2cli.shards.records import recorded
from vila2cli.shards.sample import FILTER

_MAY_CHANGE = ("settings", "seed", "held_out", "base")
"""What of a filter layer's manifest may change: it is then decided again over the scores there are."""


def decide(job: FilterJob, scores: Manifest, *, random: bool, stop: Stop) -> FilterSummary:
    """Write the filter layer; a control too with `random`, or where there is one of these scores.

    A control that stayed as it is would be of another size than what it is compared with.
    """
    decisive = {
        "stage": FILTER,
        "scores": scores.digest,
        "base": job.source.outline(),
        "settings": job.settings.deciding(),
        "seed": job.recipe.seed,
        "held_out": job.held_out.digest() if job.held_out is not None else {},
    }
    control = control_dir(job.out_dir)
    with_control = random or _is_control(control, scores)
    outputs = {job.out_dir: {**decisive, "control": False}}
    if with_control:
        outputs[control] = {**decisive, "control": True}
    missing = [folder for folder, wanted in outputs.items() if not _is_decided(job, folder, wanted)]
    if missing:
        with Selection.open(job.out_dir / f"{MARK}selection.sqlite", stop.check) as selection:
            _write(job, selection, missing, stop)
    control_summary = read_json(control / "summary.json") if with_control else None
    values = {**read_json(job.out_dir / "summary.json"), "control": control_summary}
    return FilterSummary.of({"decided": True, **values})


def _is_control(folder: Path, scores: Manifest) -> bool:
    stored = read_manifest(folder)
    inputs = stored.inputs if stored is not None else {}
    return bool(inputs.get("control")) and inputs.get("scores") == scores.digest


def _is_decided(job: FilterJob, folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Claim the folder of a filter layer, after removing decisions over the same scores with other settings."""
    stored = read_manifest(folder)
    if stored is not None and all(
        stored.inputs.get(key) == value for key, value in wanted.items() if key not in _MAY_CHANGE
    ):
        was, now = ({key: inputs.get(key) for key in _MAY_CHANGE} for inputs in (stored.inputs, wanted))
        if was != now:
            decide_again(job, folder, difference(was, now))
        elif _is_of_other_scores(job, folder):
            decide_again(job, folder, "shards were scored again")
    claim(folder, wanted, job.recipe, model=job.model or "")
    return set(job.names) <= done(folder) and (folder / "summary.json").is_file()


def _is_of_other_scores(job: FilterJob, folder: Path) -> bool:
    """Whether a shard of the layer was decided from other scores than there are now."""
    scores = scores_digest(job)
    complete = done(folder) & set(job.names)
    return any(recorded(folder / f"{name}.tar").get("scores", scores) != scores for name in complete)


def decide_again(job: FilterJob, folder: Path, why: str) -> None:
    """Remove what was decided, the manifest last, so that what is left says what it is; and say why."""
    Progress(FILTER, log_path=job.log_path).note(f"{folder} is decided again: {why}")
    written = done(folder) | set(job.names)
    tars = sorted(path for path in folder.iterdir() if path.is_file() and tar_stem(path) in written)
    ends = ("stats.json", "rejects.jsonl")
    beside = [tar.with_name(f"{tar_stem(tar)}.{end}") for tar in tars for end in ends]
    named = [folder / name for name in ("summary.json", "rejects.jsonl", "layer.json", "recipe.toml")]
    for path in [*beside, *tars, *named, folder / "manifest.json"]:
        path.unlink(missing_ok=True)


def _write(job: FilterJob, selection: Selection, missing: Sequence[Path], stop: Stop) -> None:
    cuts, held_out = select(selection, job, stop)
    for folder in missing:  # the control last: drawing it replaces the decisions
        is_control = folder != job.out_dir
        if is_control:
            selection.draw_control()
        manifest = read_manifest(folder)
        assert manifest is not None, f"{folder} was claimed"
        layer = open_layer(
            folder,
            layer=FILTER,
            source=job.source,
            manifest={"digest": manifest.digest},
            is_packed=job.recipe.data.compress_layers,
        )
        write_shards(layer, job, selection.decisions(), stop, is_control=is_control)
        summary = summarise(job, folder, [] if is_control else cuts, held_out)
        write_json(folder / "summary.json", summary.to_json())
