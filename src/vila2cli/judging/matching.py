"""Verdicts of different folders on the same captions: brought together so that judges can be compared."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath

from vila2cli.errors import DataError
from vila2cli.judging.verdicts import MAJORITY, SampleVerdicts, Verdicts
from vila2cli.score.verdict import Outcome, Pair, Verdict
from vila2cli.shards.annotations import SampleId

_TURNED: dict[Outcome, Outcome] = {"win": "loss", "loss": "win", "tie": "tie", "unjudged": "unjudged"}


def bring_together(
    mine: Mapping[str, Verdicts], theirs: Mapping[str, Verdicts]
) -> tuple[dict[str, Verdicts], list[Pair]]:
    """All judges with their verdicts on the pairs and samples that both sides know, in the words of `mine`.

    A layer is the same where one name ends in the other (`IIW` and `layers/IIW`), a sample where shard
    and key are the same, or the key alone where no shard is. Raises DataError where nothing is in common.
    """
    pairs = judged_pairs(mine)
    names = _same_layers(pairs, judged_pairs(theirs))
    keys = _same_samples(mine, theirs)
    together: dict[str, Verdicts] = dict(mine)
    for judge, samples in theirs.items():
        name = judge if judge not in mine else f"{judge} (2)"
        translated = {
            keys[sample_id]: _translated(said, names, pairs, name)
            for sample_id, said in samples.items()
            if sample_id in keys
        }
        together[name] = {sample_id: said for sample_id, said in translated.items() if said.verdicts}
    judged = judged_pairs({judge: samples for judge, samples in together.items() if judge not in mine})
    shared = [pair for pair in pairs if pair in judged]
    if not shared:
        raise DataError(
            f"nothing was judged by both: one side compares {_named(pairs)}, the other "
            f"{_named(judged_pairs(theirs))}, and {len(keys)} samples are in common"
        )
    return together, shared


def majority(people: Mapping[str, Verdicts]) -> Verdicts:
    """What most people said of each pair; a tie where as many said otherwise."""
    votes: dict[SampleId, dict[Pair, list[Verdict]]] = {}
    images: dict[SampleId, str] = {}
    for samples in people.values():
        for sample_id, said in samples.items():
            images[sample_id] = said.image
            for one in said.verdicts:
                if one.outcome != "unjudged":
                    votes.setdefault(sample_id, {}).setdefault((one.layer, one.against), []).append(one)
    return {
        sample_id: SampleVerdicts(images[sample_id], tuple(map(_vote, found.values())), {})
        for sample_id, found in votes.items()
    }


def _vote(said: list[Verdict]) -> Verdict:
    counts = Counter(one.outcome for one in said).most_common()
    is_split = len(counts) > 1 and counts[0][1] == counts[1][1]
    return replace(said[0], judge=MAJORITY, outcome="tie" if is_split else counts[0][0], answers=())


def judged_pairs(by_judge: Mapping[str, Verdicts]) -> list[Pair]:
    """Every pair of layers that a judge compared, in the order they come."""
    pairs = [
        (one.layer, one.against)
        for samples in by_judge.values()
        for said in samples.values()
        for one in said.verdicts
    ]
    return list(dict.fromkeys(pairs))


def _same_layers(mine: list[Pair], theirs: list[Pair]) -> dict[str, str]:
    """Their name of a layer to mine."""
    known = list(dict.fromkeys(name for pair in mine for name in pair))
    found = {}
    for name in dict.fromkeys(name for pair in theirs for name in pair):
        matches = [one for one in known if one == name] or [one for one in known if _ends_alike(one, name)]
        if len(matches) == 1:
            found[name] = matches[0]
    return found


def _ends_alike(first: str, second: str) -> bool:
    a, b = PurePath(first).parts, PurePath(second).parts
    length = min(len(a), len(b))
    return length > 0 and a[-length:] == b[-length:]


def _same_samples(mine: Mapping[str, Verdicts], theirs: Mapping[str, Verdicts]) -> dict[SampleId, SampleId]:
    """Their sample to mine."""
    known = {sample_id for samples in mine.values() for sample_id in samples}
    others = {sample_id for samples in theirs.values() for sample_id in samples}
    if same := known & others:
        return {sample_id: sample_id for sample_id in same}
    times = Counter(key for _, key in known) + Counter(key for _, key in others)
    by_key = {sample_id[1]: sample_id for sample_id in known}
    return {one: by_key[one[1]] for one in others if one[1] in by_key and times[one[1]] == 2}


def _translated(
    said: SampleVerdicts, names: Mapping[str, str], pairs: list[Pair], judge: str
) -> SampleVerdicts:
    verdicts = []
    for one in said.verdicts:
        if one.layer not in names or one.against not in names:
            continue
        pair = (names[one.layer], names[one.against])
        if pair in pairs:
            verdicts.append(replace(one, layer=pair[0], against=pair[1], judge=judge))
        elif pair[::-1] in pairs:
            turned = replace(one, layer=pair[1], against=pair[0], judge=judge, outcome=_TURNED[one.outcome])
            verdicts.append(replace(turned, num_words=one.num_words[::-1], answers=one.answers[::-1]))
    return SampleVerdicts(said.image, tuple(verdicts), said.captions)


def _named(pairs: list[Pair]) -> str:
    return ", ".join(f"{layer} with {against}" for layer, against in pairs[:3]) or "nothing"
