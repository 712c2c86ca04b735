"""`vila2 eval lmms`: the scores that lmms-eval gives a model, in the same metrics.json as our own tasks."""

from collections.abc import Sequence
from pathlib import Path

from vila2cli.errors import RecipeError
from vila2cli.evaluation.lmms import command_line, describe, read_results, run_lmms
from vila2cli.evaluation.metrics import Metrics
from vila2cli.files import read_json, refuse_foreign
from vila2cli.run.folder import write_json
from vila2cli.run.locks import lock
from vila2cli.settings.recipe import Recipe


def evaluate_with_lmms(
    recipe: Recipe,
    *,
    out: str | Path,
    tasks: Sequence[str] = (),
    model: str = "",
    family: str = "llava_hf",
    results: Path | None = None,
) -> Metrics:
    """Run lmms-eval, or take the `results` file of an earlier run, and add its figures to metrics.json.

    Raises ModelError when lmms-eval is not there or fails, RecipeError without tasks or model.
    """
    folder = Path(out)
    with lock(folder):
        words: list[str] = []
        if results is None:
            if not tasks or not model:
                raise RecipeError("lmms-eval needs --model and --tasks, or --results of a run of its own")
            words = command_line(
                recipe.eval.lmms_command,
                model=family,
                model_args=f"pretrained={model}",
                tasks=tasks,
                out=folder / "lmms",
                num_fewshot=recipe.eval.num_shots,
            )
            results = run_lmms(words, folder / "lmms")
        path = folder / "metrics.json"
        refuse_foreign(path, '"qa_mean"')
        metrics = read_json(path) if path.exists() else {"tasks": {}, "qa_mean": None, "caption": None}
        metrics["tasks"] |= read_results(results)
        metrics["lmms_eval"] = describe(words, results)
        write_json(path, metrics)
    return Metrics.of(metrics)
