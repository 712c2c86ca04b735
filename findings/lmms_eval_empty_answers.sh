#!/usr/bin/env bash
# lmms-eval 0.7.3, answers of VQA: saying nothing is the right answer to "which letter?", and -5 is the same as 5.
#
# TextVQA, VizWiz, OK-VQA and VQAv2 go through one normal form of the VQA evaluators, made for words: articles and
# marks are taken out of answers of the model and of people alike. But "A" is an article too, as a letter on a jersey,
# a grade or a choice, and of "C++", "-5" and "@" only what is no mark is left. Seen: "A", "The", "@", "A+" and
# an empty answer are all one, so that a model that answers nothing, or "+", is as right as can be where people
# answered "A"; "-5" is "5", "C++" is "C" and "1/2" is "1 2", while "5%" and "$5" stay. A reward or a filter of
# sampled answers built on it takes those for correct, and nothing says that the reference came out empty.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
# The one module needs nothing of what the package depends on.
"$here/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps lmms-eval==0.7.3
cat >"$here/run.py" <<'PY'
import pathlib
import runpy
import sysconfig

module = pathlib.Path(sysconfig.get_path("purelib"), "lmms_eval", "tasks", "_task_utils", "vqa_eval_metric.py")
normal = runpy.run_path(str(module))["EvalAIAnswerProcessor"]()


def accuracy(answer: str, people: list[str]) -> float:
    """VQA accuracy, as its tasks have it: a match with three people, leaving out each in turn, is right."""
    given, agreed = normal(answer), [normal(one) for one in people]
    hits = [sum(one == given for j, one in enumerate(agreed) if j != i) for i in range(len(agreed))]
    return sum(min(1.0, count / 3) for count in hits) / len(hits)


CASES = [("A", ""), ("A", "+"), ("A", "The"), ("A+", "@"), ("-5", "5"), ("C++", "C"), ("1/2", "1 2")]
OTHERS = [("A", "B"), ("5%", "5"), ("$5", "5"), ("B", "")]
for people, answer in CASES + OTHERS:
    print(f"people {people!r} ({normal(people)!r}), model {answer!r} ({normal(answer)!r}): {accuracy(answer, [people] * 10)}")
assert all(accuracy(answer, [people] * 10) == 1 for people, answer in CASES), "this has changed"
assert all(accuracy(answer, [people] * 10) == 0 for people, answer in OTHERS), "this has changed"
assert normal("A") == "", "this has changed"
PY
"$here/venv/bin/python" "$here/run.py"
