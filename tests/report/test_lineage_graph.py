"""The drawn lineage: arrows are what stages recorded, whatever the names are."""

from pathlib import Path

from vila2cli.report.lineage_graph import edges, lineage_graph
from vila2cli.report.run_folder import RunRecord, StageRecord

RUN = Path("runs/here")


def stage(group: str, name: str, place: str, **fields: object) -> StageRecord:
    return StageRecord(group=group, name=name, folder=RUN / place, state="done", **fields)  # type: ignore[arg-type]


def run_of(*stages: StageRecord) -> RunRecord:
    return RunRecord(run_dir=RUN, stages=stages, rounds=(0, 1), newest=None)


PRETRAIN0 = stage("round 0", "pretrain", "round0/pretrain", summary={"data": {"pretrain": {}, "text": {}}})
SFT0 = stage("round 0", "sft", "round0/sft", summary={"parent": {"path": "/elsewhere/here/round0/pretrain"}})
EVAL0 = stage("round 0", "eval", "round0/eval", summary={"model": "runs/here/round0/sft"})
LAYER1 = stage(
    "round 1",
    "recaption",
    "round1/recaption",
    num_out=2500,
    summary={"model": "runs/here/round0/sft"},
    manifest={"digest": "abc"},
)
SOURCES = {"pretrain": {"layers": [{"name": "recaption", "digest": "abc"}, "odd"]}, "odd": 1}
PRETRAIN1 = stage("round 1", "pretrain", "round1/pretrain", summary={"sources": SOURCES, "parent": None})


def test_arrows_are_parents_models_and_the_digests_of_layers() -> None:
    assert edges(run_of(PRETRAIN0, SFT0, EVAL0, LAYER1, PRETRAIN1)) == [
        ("round 0 · pretrain", "round 0 · sft"),
        ("round 0 · sft", "round 1 · recaption"),
        ("round 1 · recaption", "round 1 · pretrain"),
    ]


def test_a_model_of_another_run_and_a_missing_stage_have_no_arrow() -> None:
    foreign = stage("round 1", "recaption", "round1/recaption", summary={"model": "other/round9/sft"})
    missing = StageRecord(group="round 0", name="sft", folder=RUN / "round0/sft", state="missing")
    own = stage("round 1", "sft", "round1/sft", summary={"parent": {"path": "runs/here/round0/sft"}})
    assert edges(run_of(missing, foreign, own)) == []


def test_the_drawing_has_a_box_a_stage_and_an_arrow_an_edge() -> None:
    drawn = lineage_graph(run_of(PRETRAIN0, SFT0, EVAL0, LAYER1, PRETRAIN1))
    assert drawn.count("<rect") == 4
    assert drawn.count('class="head"') == 3
    assert "pretrain, text" in drawn
    assert "2,500 records" in drawn
    assert lineage_graph(run_of()) == ""


def test_hostile_names_stay_text() -> None:
    hostile = stage("<script>x</script>", "</svg>\x1b[31m", "round1/odd", summary={"data": {"<img src=x>": {}}})
    drawn = lineage_graph(run_of(hostile))
    assert "<script" not in drawn
    assert "<img" not in drawn
    assert "\x1b" not in drawn
    assert drawn.count("</svg>") == 1
