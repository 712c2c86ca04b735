"""Judging through a server that times out, breaks off, answers nonsense and refuses to answer."""

import io
import json
import time
from collections import Counter

import pytest
from PIL import Image

from chat_server import completion, problem, serving
from vila2cli.engine import pace as pace_module
from vila2cli.errors import BudgetError, DataError, ModelError, RecipeError
from vila2cli.judging.verdicts import read_verdict_layer
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_layer, open_source
from vila2cli.shards.sample import Annotation
from vila2cli.stages.judge import judge as run_stage

NUM_SAMPLES = 40
JSON = ("judge.prompt=judge-pair-json-v1", "judge.max_new_tokens=64")


def judge(*args, **kwargs):
    return run_stage(*args, **kwargs).to_json()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(pace_module, "MAX_WAIT_S", 0.02)


@pytest.fixture
def serve():
    with serving() as start:
        yield start


@pytest.fixture
def layers(tmp_path):
    """Two shards whose alt-texts name the sample, and recaptions that say more."""
    base = tmp_path / "base"
    for start in (0, NUM_SAMPLES // 2):
        with TarWriter(base / f"{start:06d}.tar") as tar:
            for number in range(start, start + NUM_SAMPLES // 2):
                stream = io.BytesIO()
                Image.new("RGB", (16, 16), (number, 0, 0)).save(stream, "PNG")
                members = {"png": stream.getvalue(), "txt": f"star {number:03d}".encode()}
                tar.write_sample(f"{number:09d}", members)
    source = open_source([str(base)])
    writer = open_layer(tmp_path / "r1", layer="recaption", source=source)
    for shard in source.shards:
        with writer.shard(shard) as out:
            for sample in out.samples():
                text = f"A picture. A red star number {int(sample.key):03d}."
                out.annotate(sample, Annotation(layer="recaption", kind="caption", text=text))
    writer.finish()
    return ["alt-text", str(tmp_path / "r1")]


def recipe(url, *sets, judges='["gpt"]'):
    api = {"base_url": url, "retries": 2, "timeout_s": 60, "max_in_flight": 8}
    settings = [f"judges.gpt.api.{key}={value}" for key, value in api.items()]
    return load_recipe(None, [f"judge.judges={judges}", "judges.gpt.model=gpt", *settings, *JSON, *sets])


def asked(body):
    """The prompt of a request, and the number of its sample."""
    text = next(part["text"] for part in body["messages"][0]["content"] if part["type"] == "text")
    return text, int(text.partition("star ")[2].removeprefix("number ")[:3])


def longer(body, number):
    """A judge that prefers the longer caption."""
    text, _ = asked(body)
    return completion(json.dumps({"better": "A" if "A: A picture" in text else "B"}))


def test_a_bad_server_leaves_every_pair_judged_or_listed(serve, layers, tmp_path):
    tries, charged = Counter(), Counter()

    def reply(body, number):
        text, sample = asked(body)
        tries[text] += 1
        trouble = sample % 8
        if sample == 1 or (sample == 2 and tries[text] == 1):
            time.sleep(4.5)  # longer than timeout_s
            return completion("too late")
        if trouble == 3 and tries[text] == 1:
            return problem(429, "slow down")
        if trouble in (1, 4) or (trouble == 5 and tries[text] == 1):
            return problem(500, "engine error")
        charged[text] += 1
        if trouble == 6:
            return completion('{"better": "A"')
        if trouble == 7:
            return completion("I'm sorry, but I can't help with that.")
        return longer(body, number)

    server = serve(reply)
    settings = recipe(server.url, "judges.gpt.api.timeout_s=3")
    summary = judge(settings, layers=layers, out=tmp_path / "judge")
    figures = summary["judges"]["gpt"]
    assert figures["wins"] == figures["num_pairs"] == NUM_SAMPLES // 2
    assert (figures["unjudged"], len(summary["unjudged"])) == (NUM_SAMPLES // 2, NUM_SAMPLES // 2)
    assert summary["unjudged_reasons"] == {"gpt": {"no-answer": 10, "unparseable": 5, "refused": 5}}
    assert set(charged.values()) == {1}
    assert all(
        "no answer in 3 tries" in one["reason"] for one in summary["unjudged"] if int(one["key"]) % 8 in (1, 4)
    )
    verdicts = read_verdict_layer(tmp_path / "judge" / "gpt")
    assert len(verdicts) == NUM_SAMPLES


def test_what_was_answered_is_never_asked_again(serve, layers, tmp_path):
    is_bad = True

    def reply(body, number):
        _, sample = asked(body)
        return problem(500, "engine error") if is_bad and sample % 4 == 1 else longer(body, number)

    server = serve(reply)
    first = judge(recipe(server.url), layers=layers, out=tmp_path / "judge")
    assert first["unjudged_reasons"] == {"gpt": {"no-answer": 10}}
    is_bad = False
    asked_before = len(server.bodies)
    second = judge(recipe(server.url), layers=layers, out=tmp_path / "judge")
    assert len(server.bodies) - asked_before == 20
    assert (second["judges"]["gpt"]["wins"], second["unjudged"]) == (NUM_SAMPLES, [])
    judge(recipe(server.url), layers=layers, out=tmp_path / "judge")
    elsewhere = recipe(server.url, f"judge.answers={tmp_path / 'judge' / 'answers.jsonl'}")
    assert judge(elsewhere, layers=layers, out=tmp_path / "again")["pairs"] == second["pairs"]
    assert len(server.bodies) - asked_before == 20


@pytest.mark.parametrize(
    "reply",
    [
        "<think>Is it A? No, B? No.</think>{}",
        "Is it A? No, B? No.\n</think>\n\n{}",
        "<think>no</think><answer>{}</answer>",
        "<think>no</think>\n```json\n{}\n```",
        "analysisIs it A?assistantfinal{}",
    ],
)
def test_the_verdict_stands_behind_the_reasoning(reply, serve, layers, tmp_path):
    def thinks(body, number):
        better = "A" if "A: A picture" in asked(body)[0] else "B"
        return completion(reply.replace("{}", json.dumps({"better": better})))

    figures = judge(recipe(serve(thinks).url), layers=layers, out=tmp_path / "judge")["judges"]["gpt"]
    assert (figures["wins"], figures["unjudged"]) == (NUM_SAMPLES, 0)


@pytest.mark.parametrize(
    ("text", "finish"),
    [('{"better": "A"}', "length"), ("<think>A is better, so", "stop"), ("<think>A is better, so", "length")],
)
def test_a_reply_that_was_cut_off_is_no_verdict(text, finish, serve, layers, tmp_path):
    def reply(body, number):
        return completion(text, finish=finish) if asked(body)[1] % 2 else longer(body, number)

    summary = judge(recipe(serve(reply).url), layers=layers, out=tmp_path / "judge")
    assert summary["unjudged_reasons"] == {"gpt": {"cut": NUM_SAMPLES // 2}}
    assert summary["judges"]["gpt"]["wins"] == NUM_SAMPLES // 2
    assert "raise judge.max_new_tokens" in summary["unjudged"][0]["reason"]


def test_a_judge_whose_every_reply_is_cut_off_is_told_what_to_raise(serve, layers, tmp_path):
    server = serve(lambda body, number: completion("Well", finish="length"))
    with pytest.raises(DataError, match=r"'cut': 40.*raise judge.max_new_tokens"):
        judge(recipe(server.url), layers=layers, out=tmp_path / "judge")


def test_a_crash_costs_no_answer(serve, layers, tmp_path):
    def dies(body, number):
        if number > 30:
            return problem(401, "who are you?")
        return longer(body, number)

    server = serve(dies)
    settings = recipe(server.url, "judges.gpt.api.max_in_flight=1")
    with pytest.raises(ModelError, match="refuses the key"):
        judge(settings, layers=layers, out=tmp_path / "judge")
    with (tmp_path / "judge/answers.jsonl").open("a") as file:
        file.write('{"id": "torn off')
    server.reply = longer
    before = len(server.bodies)
    assert judge(settings, layers=layers, out=tmp_path / "judge")["judges"]["gpt"]["wins"] == NUM_SAMPLES
    assert len(server.bodies) - before == 2 * NUM_SAMPLES - 30


def test_a_spent_budget_lists_what_is_left(serve, layers, tmp_path):
    server = serve(longer)
    limited = recipe(server.url, "judges.gpt.api.max_tokens_total=700", "judges.gpt.api.max_in_flight=1")
    with pytest.raises(BudgetError, match=r"\d+ pairs were not judged.*tokens were read"):
        judge(limited, layers=layers, out=tmp_path / "judge")
    summary = json.loads((tmp_path / "judge/summary.json").read_text())
    figures = summary["judges"]["gpt"]
    assert figures["num_pairs"] + figures["unjudged"] == NUM_SAMPLES
    assert summary["unjudged_reasons"] == {"gpt": {"over-budget": figures["unjudged"]}}
    assert 0 < len(server.bodies) <= 700 // 23
    more = judge(recipe(server.url), layers=layers, out=tmp_path / "judge")
    assert more["judges"]["gpt"]["wins"] == NUM_SAMPLES
    assert len(server.bodies) == 2 * NUM_SAMPLES


def test_a_budget_too_small_for_anything_says_so(serve, layers, tmp_path):
    server = serve(longer)
    limited = recipe(server.url, "judges.gpt.api.max_tokens_total=30", "judges.gpt.api.max_in_flight=1")
    with pytest.raises(BudgetError, match=f"{NUM_SAMPLES} pairs were not judged"):
        judge(limited, layers=layers, out=tmp_path / "judge")
    summary = json.loads((tmp_path / "judge/summary.json").read_text())
    assert summary["unjudged_reasons"] == {"gpt": {"over-budget": NUM_SAMPLES}}


def test_a_judge_may_be_added_and_writes_a_layer_of_its_own(serve, layers, tmp_path):
    server = serve(longer)
    first = judge(recipe(server.url), layers=layers, out=tmp_path / "judge")
    contrary = serve(lambda body, number: completion('{"better": "tie"}'))
    sets = ["judges.other.model=o", f"judges.other.api.base_url={contrary.url}"]
    both = recipe(server.url, *sets, judges='["gpt", "other"]')
    second = judge(both, layers=layers, out=tmp_path / "judge")
    assert (len(server.bodies), len(contrary.bodies)) == (80, 80)
    assert second["judges"]["gpt"] == first["judges"]["gpt"]
    assert second["judges"]["other"]["ties"] == NUM_SAMPLES
    assert second["pairs"][0]["agreement"][0]["same"] == 0.0
    assert {path.parent.name for path in (tmp_path / "judge").glob("*/layer.json")} == {"gpt", "other"}
    assert second["models"]["other"]["model"] == "o"
    assert json.dumps(contrary.bodies[0]["response_format"]).count('"tie"') == 1


def test_marks_by_a_rubric(serve, layers, tmp_path):
    def reply(body, number):
        text, sample = asked(body)
        mark = 5 if "A picture" in text else 3
        return completion(
            json.dumps({"correctness": mark, "completeness": 4, "specificity": mark if sample else 6})
        )

    server = serve(reply)
    settings = recipe(server.url, "judge.protocol=rubric", "judge.prompt=")
    summary = judge(settings, layers=layers, out=tmp_path / "judge")
    assert summary["judges"]["gpt"]["wins"] == NUM_SAMPLES - 1
    assert summary["unjudged_reasons"] == {"gpt": {"unparseable": 1}}
    marks = summary["captions"]["gpt"]["alt-text"]
    assert (marks["num_captions"], marks["correctness"]["value"], marks["completeness"]["value"]) == (39, 3, 4)


def test_sentences_are_marked_one_by_one(serve, layers, tmp_path):
    def reply(body, number):
        text, sample = asked(body)
        num = text.count("\n1. ") + text.count("\n2. ")
        marks = ["supported", "unsupported" if sample < 10 else "supported"][-num:]
        return completion(json.dumps({"marks": marks if sample != 39 else ["unsure"] * num}))

    server = serve(reply)
    settings = recipe(server.url, "judge.protocol=sentences", "judge.prompt=")
    summary = judge(settings, layers=layers, out=tmp_path / "judge")
    figures = summary["captions"]["gpt"]
    assert figures["alt-text"]["unsupported"]["value"] == pytest.approx(10 / 39)
    assert figures[layers[1]]["unsupported"]["value"] == pytest.approx(10 / 78)
    assert (summary["judges"]["gpt"]["wins"], summary["judges"]["gpt"]["ties"]) == (10, 29)
    assert summary["unjudged_reasons"] == {"gpt": {"unsure": 1}}
    said = read_verdict_layer(tmp_path / "judge" / "gpt")["000000", "000000000"].captions[layers[1]]
    assert [one["mark"] for one in said["sentences"]] == ["supported", "unsupported"]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["judge.judges=nobody"], r"'nobody', which is no judge; known are oracle, model, gpt"),
        (['judge.judges=["gpt", "gpt"]'], "names a judge twice"),
        (["judge.max_new_tokens=8"], r"8 tokens do not suffice; set judge.max_new_tokens=256"),
        (["judge.prompt=mine"], "unknown prompt 'mine'"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_before_anything_is_asked(
    serve, layers, tmp_path, sets, message
):
    server = serve(longer)
    with pytest.raises(RecipeError, match=message):
        judge(recipe(server.url, *sets), layers=layers, out=tmp_path / "judge")
    assert server.bodies == []
