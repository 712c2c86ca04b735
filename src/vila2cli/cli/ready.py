"""Whether a command has anything to do: what it would read and write, and what is complete already."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vila2cli.cli.documents import DryRunOfStage, Stored
from vila2cli.cli.paths import DEFAULT_RECIPE, Plan, setting_of
from vila2cli.cli.terminal import say, show
from vila2cli.errors import DataError, ModelError
from vila2cli.files import DEFAULT_DRAFT, DEFAULT_MAX_PIXELS, read_json
from vila2cli.ranks import parse_rank
from vila2cli.run.child import is_started
from vila2cli.run.cost import counted
from vila2cli.run.folder import check_same, read_manifest, to_manifest
from vila2cli.run.stages import is_summed_up, reject_budget
from vila2cli.run.workers import select, who_counts
from vila2cli.settings import Settings
from vila2cli.settings.recipe import Recipe, read_stored, resolved, resolved_lines
from vila2cli.shards.places import looks_remote, redacted

Inputs = Callable[[], Mapping[str, Any]]


def ready(plan: Plan, *, dry_run: bool, redo: bool = False, inputs: Inputs | None = None) -> bool:
    """Whether the stage is to run now, after saying what it will do, or why there is nothing to do.

    `redo` leaves it to the stage to find out what is done already. `inputs` is what the stage would put
    into the manifest of a layer.
    """
    if dry_run:
        _refuse_empty_tasks(plan)
        found = _expand(plan)
        show(_dry_run(plan, *found), _dry_run_lines(plan, *found))
        return False
    if not redo and is_up_to_date(plan, inputs):
        show(Stored(read_json(plan.marker)), [f"{plan.title}: complete, nothing to do ({plan.out})"])
        return False
    if not plan.speaks or is_started():
        return True
    _check_there(plan)
    if plan.recipe.path == DEFAULT_RECIPE:
        say(f"recipe: {DEFAULT_RECIPE}")
    elif plan.recipe.path is None:
        say("recipe: none, settings are the defaults")
    say(f"{plan.title}: writing {plan.out}")
    if plan.limit is not None and plan.kind != "judge":
        say(f"of the first {counted(plan.limit, 'sample')} alone, as --limit says")
    if how := _how_split(plan):
        say(how)
    return True


def _check_there(plan: Plan) -> None:
    """Raise DataError for data that is not there, before anything is loaded for it."""
    from vila2cli.shards.finding import find

    if plan.kind == "eval":
        from vila2cli.score.task import find_tasks

        find_tasks(plan.shards)
        return
    more = [setting_of(plan.recipe, section) for section in plan.sections if section.startswith("data.")]
    for spec in (*plan.shards, *(spec for specs in more for spec in specs)):
        if not looks_remote(spec):
            find(spec)


def _refuse_empty_tasks(plan: Plan) -> None:
    """Raise DataError for folders that are there and hold no task, or a task without shards."""
    from vila2cli.score.task import find_tasks
    from vila2cli.shards.finding import find

    if plan.kind == "eval":
        for spec in (spec for spec in plan.shards if _folders(spec)):
            for task in find_tasks([spec]):
                find(task.folder)


def _how_split(plan: Plan) -> str:
    """What part of the work is done here, where an environment decides it."""
    if plan.is_checkpoint:
        rank = parse_rank()
        return f"process {rank.index} of {rank.count}: {rank.how}" if rank.how else ""
    how = who_counts(plan.worker)
    return f"worker {plan.worker}: {how}" if how else ""


def is_up_to_date(plan: Plan, inputs: Inputs | None = None) -> bool:
    """Whether the output is there, whole, and made with these settings from the inputs named.

    Raises RecipeError when it was made with other settings or, being a layer, from other `inputs`. Without
    a record of them, or where the command line names other inputs, the answer is no, and the stage looks
    closer.
    """
    record = _record(plan)
    if record is None or not _is_whole(plan):
        return False
    settings = {
        "seed": plan.recipe.seed,
        "settings": _deciding(plan.recipe, plan.sections[0]),
        "base_settings": _deciding(plan.recipe, "base"),
        "max_pixels": plan.recipe.data.max_pixels,
        "draft": plan.recipe.data.draft,
        **plan.deciding,
    }
    if plan.model is not None and (Path(plan.model) / "config.json").is_file():
        from vila2cli.model.checkpoint import weights_sha256

        settings["model_sha256"] = weights_sha256(plan.model)
    recorded = {key: record[key] for key in settings if key in record}
    check_same(plan.out, recorded, {key: settings[key] for key in recorded}, plan.model or "")
    if plan.is_layer and inputs is not None and not _is_gone(plan):
        stored = read_manifest(plan.out)
        assert stored is not None, "it is recorded"
        check_same(plan.out, stored.inputs, to_manifest(inputs()).inputs, plan.model or "")
    if plan.kind == "eval" and read_json(plan.marker).get("limit") != plan.limit:
        return False  # its tasks' layers tell which samples they are of, and refuse others
    if record.get("model", plan.model) != plan.model:
        return False
    return plan.is_layer or not plan.origins.get("shards", "").startswith("--") or _is_of_shards(plan, record)


def _is_of_shards(plan: Plan, record: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was trained on what --shards names, as far as it says what it was trained on.

    Raises RecipeError where that was something else.
    """
    then = record.get("data", {}).get(plan.kind) if plan.is_checkpoint else None
    if then is None:
        return False
    from vila2cli.shards import open_source

    now = open_source(plan.shards, base=plan.base).digest()
    check_same(plan.out, {plan.kind: {"shards": then}}, {plan.kind: {"shards": now}})
    return True


def _is_gone(plan: Plan) -> bool:
    """Whether the model, or the one below an adapter, is an earlier stage's that was removed after its work."""
    if plan.origins.get("model") != "run folder" or plan.model is None:
        return False
    from vila2cli.model.adapter import is_adapter, named_base
    from vila2cli.model.checkpoint import resolve_model

    folder = Path(plan.model)
    if not folder.is_dir() or not is_adapter(folder):
        return not folder.is_dir()
    try:
        resolve_model(named_base(folder))
    except ModelError:
        return True
    return False


def _deciding(recipe: Recipe, section: str) -> Any:
    table, _, layer = section.partition(".")
    value = recipe.captions_of(layer) if table == "captions" else setting_of(recipe, section)
    return json.loads(json.dumps(value.deciding() if isinstance(value, Settings) else value))


def _record(plan: Plan) -> dict[str, Any] | None:
    """What the output says it was made from: `settings`, `seed` and `model` as far as it says."""
    if plan.is_checkpoint:
        record = read_json(plan.marker) if plan.marker.is_file() else None
        if record is not None and "phases" in record:
            record.setdefault("max_pixels", DEFAULT_MAX_PIXELS)  # of a default nothing is said
            record.setdefault("draft", DEFAULT_DRAFT)
        if record is not None and "layers" in record:
            record["filtered"] = "filter" in record["layers"]
        if record is None or "parent" not in record:
            return record
        parent = {"model": record["parent"].get("path"), "model_sha256": record["parent"].get("sha256")}
        if plan.kind == "pretrain":  # its settings name the model; of one on the hub the path tells the commit
            del parent["model"]
        return {**record, **{name: value for name, value in parent.items() if value is not None}}
    manifest = read_manifest(plan.out)
    if manifest is None:
        return None
    record, made_with = dict(manifest.inputs), plan.out / "recipe.toml"
    if "settings" not in record and made_with.exists():
        record["settings"] = _deciding(read_stored(made_with), plan.sections[0])
    return record


def _is_whole(plan: Plan) -> bool:
    """Whether all of the output is there; of a layer this worker's part, over the shards as they are now."""
    if not plan.is_layer:
        return plan.marker.is_file()
    from vila2cli.shards import done, missing, open_source

    if not (plan.out / "layer.json").is_file():
        return False
    if not is_summed_up(plan.out, reject_budget(plan.recipe, plan.kind, plan.layer)):
        return False
    shards = select(open_source(plan.shards, base=plan.base, limit=plan.limit).shards, plan.worker)
    if not {shard.name for shard in shards} <= done(plan.out):
        return False
    try:
        return not missing(plan.out, shards)
    except DataError:  # of changed shards: the stage will say so
        return False


def _dry_run(plan: Plan, found: Sequence[str], missing: Sequence[str]) -> DryRunOfStage:
    """What would be read and written."""
    return DryRunOfStage(
        stage=plan.stage,
        round=plan.round,
        dry_run=True,
        recipe=plan.recipe.path,
        settings=resolved(plan.recipe, ("seed", *plan.sections)),
        model=plan.model,
        inputs=found,
        missing=[redacted(spec) for spec in missing],
        worker=str(plan.worker),
        limit=plan.limit,
        out=plan.out,
        origins=plan.origins,
    )


def _dry_run_lines(plan: Plan, found: Sequence[str], missing: Sequence[str]) -> Iterator[str]:
    """What would be read and written, and where each setting comes from."""
    yield f"{plan.title} (dry run, nothing is written)"
    yield f"recipe: {plan.recipe.path or 'none'}"
    yield from (f"  {line}" for line in resolved_lines(plan.recipe, ("seed", *plan.sections)))
    if plan.model is not None:
        yield f"model: {plan.model}  # {plan.origins.get('model', 'recipe')}"
        is_ours = plan.origins.get("model") == "run folder"
        yield from (f"  {line}" for line in _checkpoint_lines(Path(plan.model), is_ours=is_ours))
    if plan.kind == "pretrain" and plan.model is not None:
        phases = " and ".join(plan.recipe.pretrain.phases)
        yield f"pretraining continues from the model, not from scratch: {phases}"
    if plan.limit is not None and plan.kind != "judge":
        of_each = " of each task" if plan.kind == "eval" else ""
        yield f"limit: the first {counted(plan.limit, 'sample')}{of_each}"
    if plan.shards:
        noun = "tasks" if plan.kind == "eval" else "shards"
        yield f"{noun}: {_span(found)}  # {plan.origins.get('shards', 'recipe')}"
    yield from (f"  missing: {redacted(spec)}" for spec in missing)
    here = select(found, plan.worker)
    if plan.worker.count > 1:
        yield f"worker {plan.worker}: {_span(here)}"
    origin = plan.origins.get("out", "default")
    if plan.is_layer:
        from vila2cli.shards import done, layer_suffix

        num_done = len(done(plan.out)) if plan.out.is_dir() else 0
        files = f"{plan.out}/SHARD{layer_suffix(plan.out, is_packed=plan.recipe.data.compress_layers)}"
        yield f"writes: {files} for {len(here)} shards, {num_done} done already  # {origin}"
    else:
        state = "there already" if plan.marker.exists() else "not there yet"
        yield f"writes: {plan.out} ({plan.marker.name} {state})  # {origin}"


def _checkpoint_lines(folder: Path, *, is_ours: bool) -> list[str]:
    """What the checkpoint itself decides, read from its config.json without loading it."""
    config_path = folder / "config.json"
    if not config_path.is_file():
        return ["not there yet" if is_ours or folder.is_dir() else "no local folder: the stage asks the hub"]
    config = read_json(config_path)
    vision = config.get("vision_config") or {}
    values = {
        "architecture": ", ".join(config.get("architectures") or ()),
        "dtype": config.get("dtype") or config.get("torch_dtype"),
        "image_size": vision.get("image_size"),
    }
    return [f"{name} = {json.dumps(value)}  # checkpoint" for name, value in values.items() if value]


def _expand(plan: Plan) -> tuple[list[str], list[str]]:
    """The inputs that the specs name, and the specs that match nothing."""
    from vila2cli.shards import expand

    found, missing = [], []
    for spec in plan.shards:
        try:
            matches = _folders(spec) if plan.kind == "eval" else expand([spec])
        except DataError:
            matches = []
        found += matches
        missing += [] if matches else [spec]
    return found, missing


def _folders(spec: str) -> list[str]:
    path = Path(spec)
    if path.exists():
        return [spec]
    return sorted(map(str, Path(path.anchor).glob(str(path.relative_to(path.anchor)))))


def _span(paths: Sequence[str]) -> str:
    if len(paths) < 2:
        return f"{len(paths)}" + "".join(f", {path}" for path in paths)
    return f"{len(paths)}, {paths[0]} ... {paths[-1]}"
