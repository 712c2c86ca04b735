"""The whole loop through the command line, small: two rounds, specialists, the final model, the report."""

import json
import shutil
from pathlib import Path

import pytest

from vila2cli.cli.app import main

REPO = Path(__file__).parents[1]
SETS = [
    "rounds=1",
    "world.num_pretrain=24",
    "world.num_interleaved=4",
    "world.num_text=6",
    "world.num_sft=8",
    "world.num_specialist=8",
    "world.num_dev=4",
    "world.num_eval=6",
    "world.samples_per_shard=10",
    "recaption.max_reject_rate=1.0",
    "pretrain.align.epochs=1.0",
    "pretrain.main.epochs=1.0",
    "sft.epochs=1.0",
    "specialists.spatial.epochs=1.0",
    "specialists.grounding.epochs=1.0",
    "specialists.ocr.epochs=1.0",
    "judge.num_samples=6",
    'judge.judges=["oracle"]',
    "eval.num_bootstrap=50",
]


def vila2(*words: str) -> None:
    sets = [word for setting in SETS for word in ("--set", setting)]
    assert main([*words, "--recipe", "world.toml", *sets]) == 0, words


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make round1 specialists report` runs, in a folder of its own."""
    folder = tmp_path_factory.mktemp("rounds")
    shutil.copy(REPO / "recipes" / "world.toml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        vila2("world")
        for stage in ("pretrain", "sft", "eval"):
            vila2(stage, "--round", "0")
        for stage in ("recaption", "pretrain", "sft", "eval", "judge"):
            vila2(stage, "--round", "1")
        for name in ("spatial", "grounding", "ocr"):
            vila2("specialize", "--name", name)
            vila2("specialize", "--name", name, "--relabel")
        for stage in ("pretrain", "sft", "eval"):
            vila2(stage, "--round", "final")
        for control in ("direct", "equal-compute", "only-ocr"):
            vila2("pretrain", "--round", f"final-{control}")
        vila2("report")
    return folder / "runs" / "world"


@pytest.mark.slow
def test_every_stage_left_its_record(run: Path) -> None:
    for name in (
        "round0/eval/metrics.json",
        "round1/judge/summary.json",
        "final/eval/metrics.json",
        "report.html",
    ):
        assert (run / name).is_file(), name
    assert not list(run.rglob("*.partial"))


def test_the_second_round_started_from_the_bases_again(run: Path) -> None:
    made = [json.loads((run / f"round{n}" / "pretrain" / "vila2.json").read_text()) for n in (0, 1)]
    assert made[0]["bases"] == made[1]["bases"]
    assert made[0]["layers"] == []
    assert made[1]["layers"] == ["recaption"]


def test_the_final_model_saw_the_specialists_answers(run: Path) -> None:
    final = json.loads((run / "final" / "pretrain" / "vila2.json").read_text())
    assert set(final["layers"]) == {"recaption", "spatial", "grounding", "ocr"}


def test_each_control_is_trained_on_what_it_says(run: Path) -> None:
    made = {
        name: json.loads((run / name / "pretrain" / "vila2.json").read_text())
        for name in ("round1", "final", "final-direct", "final-equal-compute", "final-only-ocr")
    }
    assert set(made["final-only-ocr"]["layers"]) == {"recaption", "ocr"}
    assert made["final-direct"]["layers"] == made["final-equal-compute"]["layers"] == ["recaption"]
    sources = made["final-direct"]["phases"][1]["sources"]
    assert set(sources) == {
        "pretrain",
        "interleaved",
        "specialist-spatial",
        "specialist-grounding",
        "specialist-ocr",
    }
    assert sources["specialist-ocr"]["samples"] == 8
    assert made["final-direct"]["data"]["specialist-ocr"]
    tokens = {name: one["phases"][1]["num_tokens"] for name, one in made.items()}
    epochs = {name: one["settings"]["main"]["epochs"] for name, one in made.items()}
    assert epochs["final-equal-compute"] == pytest.approx(tokens["final"] / tokens["round1"], abs=1e-3)
    assert epochs["final-direct"] == epochs["round1"] == 1.0


def test_a_control_that_cannot_be_run_says_why(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parents[1])
    for words, said in (
        (("pretrain", "--round", "final-only-none"), "has no [specialists.none]"),
        (("pretrain", "--round", "final-other"), "final-direct, final-equal-compute, final-only-NAME"),
        (("pretrain", "--round", "final-equal-compute", "--set", "name=fresh"), "not there yet"),
        (("recaption", "--round", "final-direct"), "recaptioning starts at round 1"),
        (("filter", "--round", "final-direct"), "name the layer to filter"),
    ):
        assert main([*words, "--recipe", "world.toml"]) == 2
        assert said in capsys.readouterr().err


def test_a_specialist_says_what_came_of_it(run: Path) -> None:
    summary = json.loads((run / "specialists" / "ocr" / "relabel" / "summary.json").read_text())
    assert summary["asked"] == summary["in"] == 24
    assert summary["yield"] == summary["out"] / 24


def test_runs_are_listed_with_their_figures(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parents[1])
    vila2("runs")
    lines = {line[:12].strip(): line for line in capsys.readouterr().out.splitlines()}
    metrics = json.loads((run / "round1" / "eval" / "metrics.json").read_text())
    assert f"{100 * metrics['qa_mean']['value']:.1f} [" in lines["round 1"]
    assert lines["round 1"].split()[2:7] == ["done"] * 5
    assert "final-direct" in "".join(lines)
    assert main(["runs", str(run.parents[1])]) == 4
    assert main(["runs", "nowhere"]) == 2


def test_cards_hold_the_scores_of_their_very_weights(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import DatasetCard, ModelCard

    monkeypatch.chdir(run.parents[1])
    vila2("report", str(run), "--card")
    assert len(capsys.readouterr().out.splitlines()) == 3 + 1 + 6  # sft, recaption, specialists
    model = ModelCard.load(run / "final" / "sft" / "README.md")
    metrics = json.loads((run / "final" / "eval" / "metrics.json").read_text())
    scores = {(one.dataset_name, one.metric_type): one.metric_value for one in model.data.eval_results}
    value = metrics["tasks"]["world-ocr"]["metrics"]["accuracy"]["value"]
    assert scores["world-ocr", "accuracy"] == value
    assert "## Parents" in model.text
    assert "| pretrain | main |" in model.text
    data = DatasetCard.load(run / "round1" / "recaption" / "README.md")
    assert "Describe the image in details." in data.text
    assert "| oracle | alt-text |" in data.text
    (run / "final" / "eval" / "metrics.json").write_text(json.dumps({**metrics, "model_sha256": "0" * 64}))
    vila2("report", str(run / "final" / "sft"), "--card")
    assert "No evaluation of these weights" in (run / "final" / "sft" / "README.md").read_text()
    (run / "final" / "eval" / "metrics.json").write_text(json.dumps(metrics))


def test_captions_carry_their_provenance(run: Path) -> None:
    stats = json.loads((run / "round1" / "recaption" / "summary.json").read_text())
    assert stats["in"] == 24 == stats["out"] + sum(stats["dropped"].values())
    assert stats["model"].endswith("round0/sft")


def test_done_stages_do_nothing(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.chdir(run.parents[1])
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for stage in ("recaption", "pretrain", "sft", "eval", "judge"):
        vila2(stage, "--round", "1")
        assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_round_trains_on_what_its_filter_keeps(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(run.parents[1])
    vila2("filter", "--round", "1", "--set", "filter.keep_share=0.5", "--set", "filter.duplicates=none")
    filtered = ("pretrain", "--round", "1", "--set", "pretrain.filtered=true")
    with pytest.raises(AssertionError):
        vila2(*filtered)
    assert "filtered was false, now true" in capsys.readouterr().err
    vila2(*filtered, "--out", str(tmp_path / "pretrain"))
    made = json.loads((tmp_path / "pretrain" / "vila2.json").read_text())
    assert made["layers"] == ["recaption", "filter"]
    num_kept = json.loads((run / "round1" / "filter" / "summary.json").read_text())["out"]
    assert made["phases"][0]["num_samples"] == num_kept == 12
    vila2("report")
    assert "What was kept" in (run / "report.html").read_text()
