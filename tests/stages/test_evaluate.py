import io
import json
import signal
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from vila2cli.cli.app import main
from vila2cli.errors import DataError, Interrupted, RecipeError, RejectBudgetError
from vila2cli.evaluation.predictions import differences, read_predictions, shared_tasks
from vila2cli.run.progress import Progress
from vila2cli.run.workers import Worker
from vila2cli.score import find_scorer
from vila2cli.score.stats import Interval
from vila2cli.score.task import load_task
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_source, read_shard
from vila2cli.stages.evaluate import evaluate

COLOURS = ("red", "blue", "green", "orange")
PLACES = ("top left", "top right", "bottom left", "bottom right")
VOCABULARY = {"size": ["large"], "colour": list(COLOURS), "shape": ["square"], "place": list(PLACES)}


def recipe(*sets):
    small = ("eval.engine=hf", "eval.max_new_tokens=6", "eval.batch_size=4", "eval.num_bootstrap=50")
    return load_recipe(None, [*small, *sets])


def jpeg(number: int) -> bytes:
    image = Image.new("RGB", (64, 64), "white")
    x, y = (number % 2) * 32, (number // 2 % 2) * 32
    ImageDraw.Draw(image).rectangle((x + 4, y + 4, x + 28, y + 28), fill=COLOURS[number % 4])
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    return stream.getvalue()


def meta(number: int, skill: str) -> dict:
    colour, place = COLOURS[number % 4], PLACES[number % 4]
    thing = {"size": "large", "colour": colour, "shape": "square", "place": place, "box": [0, 0, 9, 9]}
    questions = {
        "existence": ("Is there a red square in the image?", "yes" if colour == "red" else "no"),
        "colour": ("What colour is the square?", colour),
        "caption": ("", ""),
    }
    question, answer = questions[skill]
    value = {"question": question, "answers": [answer], "skill": skill}
    return value | {"scene": {"objects": [thing], "text": None}}


def write_task(folder: Path, skill: str, task_toml: str, num_shards: int = 2, damage: int = 0) -> Path:
    """Shards of four samples; the first `damage` images of the task are cut off."""
    folder.mkdir(parents=True)
    (folder / "task.toml").write_text(task_toml)
    for shard in range(num_shards):
        with TarWriter(folder / f"{shard:06d}.tar") as tar:
            for number in range(4 * shard, 4 * shard + 4):
                image = jpeg(number)[: 300 if number < damage else None]
                members = {"jpg": image, "json": json.dumps(meta(number, skill)).encode()}
                tar.write_sample(f"{number:09d}", members)
    return folder


@pytest.fixture
def tasks(tmp_path):
    words = "".join(f"{slot} = {json.dumps(values)}\n" for slot, values in VOCABULARY.items())
    caption = f'answer_type = "caption"\nquestion = "Describe the image in details."\n[vocabulary]\n{words}'
    write_task(tmp_path / "tasks/existence", "existence", 'answer_type = "yesno"\n')
    write_task(tmp_path / "tasks/colour", "colour", 'answer_type = "short"\nversion = "3"\n', num_shards=1)
    write_task(tmp_path / "tasks/caption", "caption", caption, num_shards=1)
    return tmp_path / "tasks"


def run(tiny_checkpoint, tasks, out, *sets, **arguments):
    return evaluate(recipe(*sets), model=tiny_checkpoint, tasks=[tasks], out=out, **arguments).to_json()


def test_every_task_gets_a_prediction_layer_and_its_metrics(tiny_checkpoint, tasks, tmp_path):
    out = tmp_path / "eval"
    metrics = run(tiny_checkpoint, tasks, out, round=1)
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert {name: task["num_samples"] for name, task in metrics["tasks"].items()} == {
        "caption": 4,
        "colour": 4,
        "existence": 8,
    }
    assert metrics["tasks"]["colour"]["version"] == "3"
    headlines = [metrics["tasks"][name]["metrics"]["accuracy"]["value"] for name in ("colour", "existence")]
    assert metrics["qa_mean"]["value"] == pytest.approx(sum(headlines) / 2)
    assert metrics["qa_mean"]["low"] <= metrics["qa_mean"]["value"] <= metrics["qa_mean"]["high"]
    assert metrics["caption"].keys() == {"precision", "recall", "f1", "num_words"}
    assert (metrics["round"], metrics["num_rejected"]) == (1, 0)
    assert metrics["protocol"]["engine"] == "hf"
    assert metrics["protocol"]["max_new_tokens"] == 6


def test_predictions_are_the_answers_with_their_scores(tiny_checkpoint, tasks, tmp_path):
    run(tiny_checkpoint, tasks, tmp_path / "eval", round=1)
    task = load_task(tasks / "existence")
    source = open_source([str(tmp_path / "eval/existence")])
    samples = [sample for shard in source.shards for sample in read_shard(shard, on_reject=pytest.fail)]
    assert len(samples) == 8
    for sample in samples:
        annotation = sample.annotation("eval")
        assert annotation.kind == "prediction"
        assert annotation.scores == task.scorer.score(annotation.text, task.reference_of(sample))
        assert (annotation.round, annotation.sampling["max_new_tokens"]) == (1, 6)
        assert 1 <= annotation.num_tokens <= 6


def test_a_second_run_asks_only_what_is_missing(tiny_checkpoint, tasks, tmp_path):
    out = tmp_path / "eval"
    first = run(tiny_checkpoint, tasks, out)
    gone, kept = out / "existence/000001.tar.gz", out / "existence/000000.tar.gz"
    before, kept_time = gone.read_bytes(), kept.stat().st_mtime_ns
    gone.unlink()
    (out / "metrics.json").unlink()
    second = run(tiny_checkpoint, tasks, out)
    assert gone.read_bytes() == before
    assert kept.stat().st_mtime_ns == kept_time
    assert second["tasks"]["existence"]["metrics"] == first["tasks"]["existence"]["metrics"]


def test_workers_share_the_shards_of_all_tasks(tiny_checkpoint, tasks, tmp_path):
    whole = run(tiny_checkpoint, tasks, tmp_path / "whole")
    out = tmp_path / "split"
    first = run(tiny_checkpoint, tasks, out, worker=Worker(1, 2))
    assert first == {"scored": False, "num_shards": 4, "num_shards_done": 2}
    assert not (out / "metrics.json").exists()
    second = run(tiny_checkpoint, tasks, out, worker=Worker(0, 2))
    assert json.loads((out / "metrics.json").read_text()) == second
    for name, task in whole["tasks"].items():
        assert second["tasks"][name]["metrics"] == task["metrics"]
    for tar in (tmp_path / "whole").rglob("*.tar.gz"):
        assert (out / tar.relative_to(tmp_path / "whole")).read_bytes() == tar.read_bytes()


def test_the_last_worker_fails_on_what_any_of_them_could_not_use(tiny_checkpoint, tmp_path):
    write_task(tmp_path / "tasks/existence", "existence", 'answer_type = "yesno"', damage=2)
    run(tiny_checkpoint, tmp_path / "tasks", tmp_path / "eval", worker=Worker(0, 2))
    with pytest.raises(RejectBudgetError, match="existence: 2 of 8 samples"):
        run(tiny_checkpoint, tmp_path / "tasks", tmp_path / "eval", worker=Worker(1, 2))
    assert not (tmp_path / "eval/metrics.json").exists()


def test_a_finished_folder_is_scored_again_without_the_model(tiny_checkpoint, tasks, tmp_path, capsys):
    run(tiny_checkpoint, tasks, tmp_path / "eval")
    capsys.readouterr()
    metrics = run(tiny_checkpoint, tasks, tmp_path / "eval", "eval.num_bootstrap=10")
    assert metrics["protocol"]["num_bootstrap"] == 10
    assert "engine" not in capsys.readouterr().err


def test_other_settings_are_refused(tiny_checkpoint, tasks, tmp_path):
    run(tiny_checkpoint, tasks, tmp_path / "eval")
    with pytest.raises(RecipeError, match="max_new_tokens was 6, now 7"):
        run(tiny_checkpoint, tasks, tmp_path / "eval", "eval.max_new_tokens=7")


def test_unreadable_images_are_counted_and_fail_above_the_budget(tiny_checkpoint, tmp_path):
    write_task(tmp_path / "tasks/existence", "existence", 'answer_type = "yesno"', damage=2)
    with pytest.raises(RejectBudgetError, match=r"\(bad-image 2\); see \S+/eval/existence/rejects\.jsonl,"):
        run(tiny_checkpoint, tmp_path / "tasks", tmp_path / "eval")
    assert not (tmp_path / "eval/metrics.json").exists()
    metrics = run(tiny_checkpoint, tmp_path / "tasks", tmp_path / "eval", "eval.max_reject_rate=0.25")
    task = metrics["tasks"]["existence"]
    assert (task["num_samples"], task["num_rejected"], task["rejected"]) == (6, 2, {"bad-image": 2})
    rejects = (tmp_path / "eval/existence/rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in rejects] == ["000000000", "000000001"]


def test_samples_that_cannot_be_scored_are_rejected_before_they_are_asked(tiny_checkpoint, tmp_path):
    write_task(tmp_path / "tasks/colour", "colour", 'answer_type = "yesno"')
    with pytest.raises(RejectBudgetError, match=r"8 of 8 .*\(task 8\);.*; the first: .*yes") as found:
        run(tiny_checkpoint, tmp_path / "tasks", tmp_path / "eval", "eval.max_reject_rate=1.0")
    assert "raise eval.max_reject_rate" not in str(found.value), (
        "no other limit lets a task without answers pass"
    )


def test_no_tasks_is_an_error(tiny_checkpoint, tmp_path):
    with pytest.raises(RecipeError, match="--tasks"):
        evaluate(recipe(), model=tiny_checkpoint, out=tmp_path / "eval")


def test_two_evals_are_compared_sample_by_sample(tiny_checkpoint, tasks, tmp_path):
    run(tiny_checkpoint, tasks, tmp_path / "one")
    run(tiny_checkpoint, tasks, tmp_path / "two", "eval.max_new_tokens=5")
    shared = dict(shared_tasks(tmp_path / "one", tmp_path / "two"))
    assert set(shared) == {"caption", "colour", "existence"}
    first, second = (
        json.loads((tmp_path / name / "metrics.json").read_text())["tasks"]["existence"]["metrics"]
        for name in ("one", "two")
    )
    yesno = shared["existence"]
    found = differences(tmp_path / "one/existence", tmp_path / "two/existence", yesno, num_bootstrap=50)
    assert {name: one.value for name, one in found.items()} == pytest.approx(
        {name: second[name]["value"] - first[name]["value"] for name in first}
    )
    same = differences(tmp_path / "one/existence", tmp_path / "one/existence", yesno)["accuracy"].interval()
    assert same == Interval(0.0, 0.0, 0.0)


def test_layers_of_different_tasks_are_not_compared(tiny_checkpoint, tasks, tmp_path):
    run(tiny_checkpoint, tasks, tmp_path / "eval")
    write_task(tmp_path / "more/elsewhere", "existence", 'answer_type = "yesno"', num_shards=3)
    run(tiny_checkpoint, tmp_path / "more", tmp_path / "eval")
    for name in ("000000", "000001"):
        (tmp_path / f"eval/elsewhere/{name}.tar.gz").unlink()
    with pytest.raises(DataError, match="share no sample"):
        differences(tmp_path / "eval/existence", tmp_path / "eval/elsewhere", find_scorer("yesno"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no predictions"):
        read_predictions(tmp_path / "empty")


def test_a_question_the_model_cannot_take_is_a_reject(tiny_checkpoint, tmp_path):
    question = json.dumps("star " * 9000)
    write_task(
        tmp_path / "tasks/colour", "colour", f'answer_type = "short"\nquestion = {question}', num_shards=1
    )
    with pytest.raises(RejectBudgetError, match=r"4 of 4 .*\(engine 4\)"):
        run(tiny_checkpoint, tmp_path / "tasks", tmp_path / "eval")
    rejects = (tmp_path / "eval/colour/rejects.jsonl").read_text().splitlines()
    assert all("token" in json.loads(line)["error"] for line in rejects)


def test_a_stopped_eval_goes_on_where_it_was(tiny_checkpoint, tasks, tmp_path, monkeypatch):
    """The signal comes while the second shard of a task is asked: the first is kept, the second redone."""
    out, advance = tmp_path / "eval", Progress.advance

    def stop_at_sixth(progress, n=1, **figures):
        advance(progress, n, **figures)
        if progress.stage == "eval existence" and progress.num_done == 6:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Progress, "advance", stop_at_sixth)
    with pytest.raises(Interrupted, match="SIGTERM"):
        run(tiny_checkpoint, tasks, out)
    assert sorted(path.name for path in (out / "existence").glob("*.tar*")) == ["000000.tar.gz"]
    monkeypatch.undo()
    assert run(tiny_checkpoint, tasks, out)["tasks"]["existence"]["num_samples"] == 8
    assert not list(out.rglob("*.partial"))


def test_boxes_are_measured_in_another_frame_without_asking_again(tiny_checkpoint, tmp_path):
    """The frame decides nothing of the answers, so it may be stated once they are there."""
    folder = tmp_path / "tasks/region"
    folder.mkdir(parents=True)
    with TarWriter(folder / "000000.tar") as tar:
        for number in range(3):
            region = {"question": "Where?", "box": "[1,2,9,9]", "width": 64, "height": 64}
            members = {"jpg": jpeg(number), "json": json.dumps(region).encode()}
            tar.write_sample(f"{number:09d}", members)
    (folder / "task.toml").write_text('answer_type = "box"\nscorer = "refcoco"\n')
    out = tmp_path / "eval"
    first = run(tiny_checkpoint, folder, out)
    answers = (out / "region/000000.tar.gz").read_bytes()
    words = ["eval", "--model", str(tiny_checkpoint), "--tasks", str(folder), "--out", str(out)]
    small = ["eval.engine=hf", "eval.max_new_tokens=6", "eval.batch_size=4", "eval.num_bootstrap=50"]
    for value in ("xyxy-pixel", "xyxy-1"):
        sets = [word for one in (*small, f"eval.box_frame={value}") for word in ("--set", one)]
        assert main([*words, *sets]) == 0
        second = json.loads((out / "metrics.json").read_text())
        assert second["tasks"]["region"]["box_frame"] == second["protocol"]["box_frame"] == value
    assert "box_frame" not in first["tasks"]["region"]
    assert (out / "region/000000.tar.gz").read_bytes() == answers


def test_the_first_samples_of_each_task_are_scored_and_not_official(tiny_checkpoint, tasks, tmp_path):
    metrics = run(tiny_checkpoint, tasks, tmp_path / "some", limit=5)
    assert metrics["limit"] == 5
    assert {name: entry["num_samples"] for name, entry in metrics["tasks"].items()} == {
        "existence": 5,
        "colour": 4,
        "caption": 4,
    }
    for entry in metrics["tasks"].values():
        assert not entry["official"]
        assert entry["doubts"][0] == "of the first 5 samples at most"
    with pytest.raises(RecipeError, match="made with other settings"):
        run(tiny_checkpoint, tasks, tmp_path / "some")


def test_an_eval_of_first_samples_does_not_pass_for_one_of_all(tiny_checkpoint, tasks, tmp_path, capsys):
    small = ("eval.engine=hf", "eval.max_new_tokens=6", "eval.batch_size=4", "eval.num_bootstrap=50")
    sets = [word for one in (*small, f"eval.tasks=['{tasks}/*']") for word in ("--set", one)]
    words = ["eval", "--model", str(tiny_checkpoint), "--out", str(tmp_path / "some"), *sets]
    assert main([*words, "--limit", "5"]) == 0
    capsys.readouterr()
    assert main([*words, "--limit", "5"]) == 0
    assert "complete, nothing to do" in capsys.readouterr().out
    assert main(words) == 2
    assert "made with other settings" in capsys.readouterr().err
