"""What a judge's result says, before it is read for a verdict: the answer, or why there is none."""

from vila2cli.engine import Failure, Result
from vila2cli.shards.rejects import NO_ANSWER, OVER_BUDGET
from vila2cli.text.refusals import refuses

CUT = "cut"
"""Why there is no verdict where a reply reached max_new_tokens, or its reasoning did not end."""
_REASONS: dict[Failure, str] = {
    "request": "not-accepted",
    "unanswered": NO_ANSWER,
    "filtered": "refused",
    "budget": OVER_BUDGET,
}
_CUT_OFF = "it reached max_new_tokens; raise judge.max_new_tokens, or that of the judge's table"


def problem_of(result: Result) -> str:
    """Why there is no answer: one word, and perhaps more behind a colon; empty where there is one."""
    if result.error is None:
        return f"{CUT}: {_CUT_OFF}" if result.is_cut else ""
    reason = _REASONS[result.failure or "request"]
    return reason if reason == OVER_BUDGET else f"{reason}: {result.error}"


def why_unread(result: Result) -> str:
    """Why nothing could be made of a result: its problem, or what its text is not."""
    return problem_of(result) or ("refused" if refuses(result.answer.text) else "unparseable")


def shown(result: Result) -> str:
    """What a verdict keeps of a result."""
    problem = problem_of(result)
    return f"({problem})" if problem else result.answer.text
