import io
import json
import shutil
from random import Random

import pytest
from PIL import Image

from vila2cli.cli.app import main
from vila2cli.errors import DataError, RecipeError
from vila2cli.judging.terminal import short, summary_table, verdict_lines
from vila2cli.judging.verdicts import read_verdict_layer
from vila2cli.run.workers import Worker
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_layer, open_source, read_shard
from vila2cli.shards.sample import Annotation
from vila2cli.stages.judge import is_judged
from vila2cli.stages.judge import judge as run_stage
from vila2cli.stages.shards import show

NUM_SAMPLES = 12
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")


def judge(*args, **kwargs):
    return run_stage(*args, **kwargs).to_json()


def recipe(*sets):
    judges = 'judge.judges=["oracle", "model"]'
    return load_recipe(None, ["judge.engine=hf", "judge.max_new_tokens=2", judges, *sets])


def thing(number):
    return {
        "size": "large",
        "colour": COLOURS[number % 6],
        "shape": "star",
        "place": "top left",
        "box": [0, 0, 9, 9],
    }


def truth(number):
    return f"There is a large {COLOURS[number % 6]} star at the top left."


def jpeg(number):
    random = Random(number)
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), tuple(random.randrange(256) for _ in range(3))).save(stream, "JPEG")
    return stream.getvalue()


def write_base(folder, *, scenes=True, damage=(), without_text=()):
    """Two shards; the alt-text names the colour and shape of the object alone: two right slots of four."""
    for start in (0, NUM_SAMPLES // 2):
        with TarWriter(folder / f"{start:06d}.tar") as tar:
            for number in range(start, start + NUM_SAMPLES // 2):
                meta = {"scene": {"objects": [thing(number)], "text": None}} if scenes else {}
                members = {
                    "jpg": jpeg(number)[: 200 if number in damage else None],
                    "txt": b"" if number in without_text else f"a {COLOURS[number % 6]} star".encode(),
                    "json": json.dumps(meta).encode(),
                }
                tar.write_sample(f"{number:09d}", members)
    return folder


def write_captions(base, folder, caption_of):
    source = open_source([str(base)])
    writer = open_layer(folder, layer="recaption", source=source)
    for shard in source.shards:
        with writer.shard(shard) as out:
            for sample in out.samples():
                text = caption_of(int(sample.key))
                out.annotate(sample, Annotation(layer="recaption", kind="caption", text=text))
    writer.finish()
    return str(folder)


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base")


@pytest.fixture
def right(base, tmp_path):
    return write_captions(base, tmp_path / "right", truth)


@pytest.fixture
def mixed(base, tmp_path):
    """A third of the captions right, a third without a fact, a third wrong."""

    def caption(number):
        return (truth(number), "A picture.", "There is a small cyan circle at the top left.")[number % 3]

    return write_captions(base, tmp_path / "mixed", caption)


def test_the_oracle_counts_facts(mixed, right, tmp_path):
    out = tmp_path / "judge"
    summary = judge(recipe("judge.judges=oracle"), layers=["alt-text", mixed, right], out=out, round=1)
    assert json.loads((out / "summary.json").read_text()) == summary
    figures = {(pair["layer"], pair["against"]): pair["judges"]["oracle"] for pair in summary["pairs"]}
    counts = {pair: (one["wins"], one["ties"], one["losses"]) for pair, one in figures.items()}
    assert counts == {
        (right, "alt-text"): (12, 0, 0),
        (mixed, "alt-text"): (4, 0, 8),
        (right, mixed): (8, 4, 0),
    }
    assert summary["judges"]["oracle"] == figures[right, "alt-text"]
    assert summary["judges"]["oracle"]["win_rate"]["value"] == 1.0
    assert summary["judges"]["oracle"]["length_bias"] == 1.0
    assert figures[mixed, "alt-text"]["win_rate"]["value"] == pytest.approx(1 / 3)
    assert (summary["num_samples"], summary["round"], summary["unjudged"]) == (12, 1, [])


def test_verdicts_are_a_layer_over_the_drawn_samples(right, tmp_path):
    out = tmp_path / "judge"
    summary = judge(recipe("judge.judges=oracle", "judge.num_samples=5"), layers=["alt-text", right], out=out)
    last = json.loads((out / "oracle" / "log.jsonl").read_text().splitlines()[-1])
    assert (last["done"], last["total"]) == (5, 5), "those that were drawn, and no others"
    assert (summary["num_samples"], summary["num_candidates"]) == (5, NUM_SAMPLES)
    source = open_source([str(out / "oracle")])
    samples = [sample for shard in source.shards for sample in read_shard(shard, on_reject=pytest.fail)]
    judged = [annotation for sample in samples if (annotation := sample.annotation("judge"))]
    assert len(judged) == 5
    assert {annotation.kind for annotation in judged} == {"verdict"}
    assert all(annotation.scores["verdicts"][0]["outcome"] == "win" for annotation in judged)
    assert "\n".join(show(source, NUM_SAMPLES).samples).count(f"\n    {short(right)} over alt-text: win\n") == 5


def test_a_judges_folder_is_shown_by_its_only_layer_of_verdicts(right, tmp_path, capsys):
    out = tmp_path / "verdicts"
    words = ["--layers", "original", right, "--out", str(out), "--set", "judge.judges=oracle"]
    assert main(["judge", *words]) == 0
    assert f"{short(right)} over alt-text by oracle: " in capsys.readouterr().out, "whatever name was given"
    assert main(["shards", "show", str(out), "-n", "1"]) == 0
    assert f"{short(right)} over alt-text: win" in capsys.readouterr().out
    shutil.copytree(out / "oracle", out / "second")
    assert main(["shards", "show", str(out)]) == 4
    assert f"name one: {out / 'oracle'}, {out / 'second'}" in capsys.readouterr().err


def test_pairs_of_equal_captions_are_counted(base, right, tmp_path):
    other = write_captions(base, tmp_path / "other", lambda number: truth(number) if number < 5 else "None.")
    summary = judge(recipe("judge.judges=oracle"), layers=[right, other], out=tmp_path / "judge")
    assert summary["judges"]["oracle"]["equal"] == 5
    (line,) = [line for line in summary_table(summary) if "equal captions" in line]
    pair = f"{short(other)} over {short(right)}"
    assert line.startswith(f"{pair}: 5 of {NUM_SAMPLES} pairs have equal captions")
    assert (
        f"{pair} by oracle: too few pairs of captions that differ to tell: 7, and it takes 20"
        in summary_table(summary)
    )


def test_where_all_captions_are_equal_nothing_was_judged(base, right, tmp_path):
    same = write_captions(base, tmp_path / "same", truth)
    lines = summary_table(judge(recipe("judge.judges=oracle"), layers=[right, same], out=tmp_path / "judge"))
    assert (
        f"{short(same)} over {short(right)} by oracle: nothing was judged: all {NUM_SAMPLES} pairs are equal"
        in (lines)
    )
    assert "50.0 %" not in "\n".join(lines[:2])


@pytest.mark.parametrize(
    ("counts", "rate", "said"),
    [
        ((30, 0, 10), (0.75, 0.61, 0.89), "the captions of b are preferred"),
        ((10, 0, 30), (0.25, 0.11, 0.39), "the captions of a are preferred"),
        # Half an interval of 0.14 around a difference of 0.1: 40 * (1.43 * 1.4) ** 2.
        ((20, 8, 12), (0.6, 0.46, 0.74), "no clear difference; about 161 pictures would tell"),
        ((20, 0, 20), (0.5, 0.36, 0.64), "no clear difference"),
    ],
)
def test_what_the_verdicts_of_a_judge_say(counts, rate, said):
    figures = dict(zip(("wins", "ties", "losses"), counts, strict=True)) | {"unjudged": 0}
    figures["win_rate"] = dict(zip(("value", "low", "high"), rate, strict=True))
    pair = {"layer": "b", "against": "a", "judges": {"model": figures}, "agreement": []}
    assert f"b over a by model: {said}" in summary_table({"pairs": [pair]})


def test_a_verdict_is_shown_in_a_line():
    said = {"layer": "runs/r1/recaption", "against": "alt-text", "judge": "model", "num_words": [9, 2]}
    answered = said | {"outcome": "tie", "answers": ["A", "A\n"]}
    unread = said | {"outcome": "unjudged", "answers": [], "reason": "refused"}
    assert verdict_lines([answered, unread]) == [
        'r1/recaption over alt-text: tie (shown first: "A", shown second: "A\\n")',
        "r1/recaption over alt-text: unjudged, refused",
    ]
    assert verdict_lines([{"outcome": "win"}]) == verdict_lines(None) == []


def test_a_checkpoint_is_asked_in_both_orders(tiny_checkpoint, mixed, right, tmp_path):
    summary = judge(recipe(), layers=[mixed, right], out=tmp_path / "judge", model=tiny_checkpoint)
    assert list(summary["judges"]) == ["oracle", "model"]
    model = summary["judges"]["model"]
    assert model["wins"] + model["losses"] + model["ties"] + model["unjudged"] == NUM_SAMPLES
    for figures in summary["judges"].values():  # every figure once, or the same wherever it stands
        assert figures["intervals"].keys() <= {"position_bias", "length_bias"}
        assert all(figures[name] == one["value"] for name, one in figures["intervals"].items())
    verdicts = read_verdict_layer(tmp_path / "judge" / "model")
    by_model = {key[1]: one for key, said in verdicts.items() for one in said.verdicts}
    for key, one in by_model.items():
        same = int(key) % 3 == 0
        assert len(one.answers) == (0 if same else 2)
        assert (one.outcome == "tie") or not same
    assert len(summary["unjudged"]) == model["unjudged"]
    assert summary["protocol"]["prompt_id"] == "judge-pair-v1"
    assert summary["pairs"][0]["agreement"][0]["judges"] == ["oracle", "model"]


def test_a_second_run_judges_only_what_is_missing(tiny_checkpoint, mixed, right, tmp_path):
    out = tmp_path / "judge"
    settings = {"layers": [mixed, right], "out": out, "model": tiny_checkpoint}
    first = judge(recipe(), **settings)
    gone, kept = sorted((out / "model").glob("*.tar.gz"))
    before, kept_time = gone.read_bytes(), kept.stat().st_mtime_ns
    gone.unlink()
    second = judge(recipe(), **settings)
    assert gone.read_bytes() == before
    assert kept.stat().st_mtime_ns == kept_time
    assert second["pairs"] == first["pairs"]


def test_workers_share_the_shards_of_all_judges(tiny_checkpoint, mixed, right, tmp_path):
    settings = {"layers": [mixed, right], "model": tiny_checkpoint}
    whole = judge(recipe(), out=tmp_path / "whole", **settings)
    out = tmp_path / "split"
    for index in (2, 0):
        unfinished = judge(recipe(), out=out, worker=Worker(index, 3), **settings)
    assert unfinished == {"judged": False, "num_shards": 4, "num_shards_done": 3}
    assert not (out / "summary.json").exists()
    split = judge(recipe(), out=out, worker=Worker(1, 3), **settings)
    assert json.loads((out / "summary.json").read_text()) == split
    assert split["pairs"] == whole["pairs"]
    verdicts = sorted((tmp_path / "whole").rglob("*.tar.gz"))
    assert [(out / tar.relative_to(tmp_path / "whole")).read_bytes() for tar in verdicts] == [
        tar.read_bytes() for tar in verdicts
    ]
    lines = [line for path in sorted(out.glob("answers*.jsonl")) for line in path.read_text().splitlines()]
    once = (tmp_path / "whole/answers.jsonl").read_text().splitlines()
    assert sorted(lines) == sorted(once)


def test_unreadable_pictures_and_missing_alt_texts_are_counted(tiny_checkpoint, tmp_path):
    base = write_base(tmp_path / "base", damage={1, 2}, without_text={7})
    layer = write_captions(base, tmp_path / "r1", truth)
    summary = judge(recipe(), layers=["alt-text", layer], out=tmp_path / "judge", model=tiny_checkpoint)
    assert (summary["num_samples"], summary["num_rejected"]) == (9, 2)
    assert summary["dropped"] == {"bad-image": 2, "not-drawn": 1}
    assert summary["num_lacking"] == 1
    assert "1 sample not drawn for want of a caption in each layer; 11 others are" in summary_table(summary)
    assert len((tmp_path / "judge/model/rejects.jsonl").read_text().splitlines()) == 2


def test_pictures_without_alt_texts_are_said_to_lack_them(tmp_path):
    base = write_base(tmp_path / "base", without_text=range(NUM_SAMPLES))
    layer = write_captions(base, tmp_path / "r1", truth)
    with pytest.raises(DataError, match="none of 12 samples has a caption in each of alt-text, ") as told:
        judge(recipe("judge.judges=oracle"), layers=["alt-text", layer], out=tmp_path / "judge")
    assert "scene" not in str(told.value)


def test_an_oracle_without_scenes_is_an_error(tmp_path):
    base = write_base(tmp_path / "base", scenes=False)
    layer = write_captions(base, tmp_path / "r1", truth)
    with pytest.raises(DataError, match="no judge could judge any of 12 samples"):
        judge(recipe("judge.judges=oracle"), layers=["alt-text", layer], out=tmp_path / "judge")
    summary = json.loads((tmp_path / "judge/summary.json").read_text())
    assert summary["unjudged_reasons"] == {"oracle": {"no-scene": 12}}
    assert not is_judged(summary, recipe("judge.judges=oracle"))


def test_a_model_judge_needs_a_model(right, tmp_path):
    with pytest.raises(RecipeError, match="give --model"):
        judge(recipe(), layers=["alt-text", right], out=tmp_path / "judge")


def test_other_captions_are_refused(mixed, right, tmp_path):
    only_oracle = recipe("judge.judges=oracle")
    judge(only_oracle, layers=["alt-text", right], out=tmp_path / "judge")
    with pytest.raises(RecipeError, match="was made with other settings: "):
        judge(only_oracle, layers=["alt-text", mixed], out=tmp_path / "judge")
