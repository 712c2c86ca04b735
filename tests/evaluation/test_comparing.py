"""Two evals side by side, from prediction layers on disk."""

import json

import pytest

from vila2cli.cli.app import main
from vila2cli.errors import DataError
from vila2cli.evaluation.comparing import compare_headlines
from vila2cli.formats.benchmarks.write import import_tasks
from vila2cli.settings.recipe import load_recipe
from vila2cli.stages.score_only import score_answers

NUM = 60


@pytest.fixture
def evals(tmp_path):
    """Two tasks of 60 questions; the second model answers one of them much better and the other alike."""
    for name in ("easy", "hard"):
        rows = {
            f"{name}{n}": {"question": f"Is it {n}?", "imageId": f"i{n}", "answer": "yes"} for n in range(NUM)
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        import_tasks("gqa", [tmp_path / f"{name}.json"], tmp_path / name)
        text = (tmp_path / name / "gqa" / "task.toml").read_text().replace('"gqa"', f'"{name}"', 1)
        (tmp_path / name / "gqa" / "task.toml").write_text(text)
    folders = []
    for model, right in (("one", {"easy": 20, "hard": 30}), ("two", {"easy": 55, "hard": 31})):
        rows = [
            {"question_id": f"{name}{n}", "text": "yes" if n < right[name] else "no"}
            for name in ("easy", "hard")
            for n in range(NUM)
        ]
        (tmp_path / f"{model}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        folders.append(tmp_path / model)
        score_answers(
            load_recipe(None, ["eval.num_bootstrap=200"]),
            answers=[tmp_path / f"{model}.jsonl"],
            tasks=[tmp_path / "easy", tmp_path / "hard"],
            out=folders[-1],
        )
    return folders


def test_headlines_are_compared_on_the_same_samples(evals):
    easy, hard = compare_headlines(*evals)
    assert (easy.task, hard.task) == ("easy", "hard")
    assert easy.difference == pytest.approx(35 / 60)
    assert easy.low > 0
    assert easy.p_holm == pytest.approx(2 * easy.p, rel=1e-6)
    assert easy.p_holm < 0.001 < hard.p
    assert hard.p_holm == hard.p
    assert easy.samples_needed < NUM < hard.samples_needed
    assert hard.smallest_visible > hard.difference


def test_what_only_one_model_answered_is_in_no_figure(evals, tmp_path):
    """Without its first 20 answers, all of them right, the first model is compared on the other 40."""
    rows = (tmp_path / "one.jsonl").read_text().splitlines()
    (tmp_path / "part.jsonl").write_text("\n".join(row for n, row in enumerate(rows) if not n < 20))
    score_answers(
        load_recipe(None, ["eval.num_bootstrap=200", "eval.max_reject_rate=0.5"]),
        answers=[tmp_path / "part.jsonl"],
        tasks=[tmp_path / "easy", tmp_path / "hard"],
        out=tmp_path / "part",
    )
    for folders, sign in (((tmp_path / "part", evals[1]), 1), ((evals[1], tmp_path / "part"), -1)):
        easy, hard = compare_headlines(*folders)
        assert (easy.num_samples, hard.num_samples) == (40, 60)
        assert sorted((easy.first, easy.second)) == [0, 35 / 40]
        assert easy.difference == easy.second - easy.first == sign * 35 / 40


def test_samples_can_be_planned_for_another_difference(evals):
    (found, _), (wanted, _) = compare_headlines(*evals), compare_headlines(*evals, wanted=0.01)
    assert wanted.samples_needed == pytest.approx(
        found.samples_needed * (found.difference / 0.01) ** 2, rel=0.2
    )


def test_the_command_states_how_many_comparisons_there_are(evals, tmp_path, capsys):
    assert main(["eval", "compare", *map(str, evals)]) == 0
    printed = capsys.readouterr().out
    assert "easy accuracy: 0.3333 -> 0.9167, +0.5833" in printed
    assert "2 comparisons" in printed
    assert main(["eval", "compare", *map(str, evals), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_comparisons"] == 2


def test_evals_without_a_common_task_are_refused(evals, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none/metrics.json").write_text('{"tasks": {}}')
    with pytest.raises(DataError, match="share no task"):
        compare_headlines(evals[0], tmp_path / "none")
