"""`vila2 shards show --tokens`: samples as training sees them, with what is trained marked."""

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from vila2cli.run.results import Texts
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import Source, read_shard
from vila2cli.shards.members import Unusable
from vila2cli.shards.sample import Reject, Sample, Turn, is_kept
from vila2cli.text.choose import Choice
from vila2cli.text.compose import Composition, alternatives, composition_of, conversations
from vila2cli.text.printable import printable

if TYPE_CHECKING:
    from vila2cli.model.chat import Chat
    from vila2cli.train.data import TrainSample

TRAINED = ("\x1b[1;32m", "\x1b[0m")
IMAGE = ("\x1b[36m", "\x1b[0m")
PLAIN_TRAINED = ("⟦", "⟧")
"""Around what is trained where colours would not be seen; in texts they are shown as escapes."""


def chat_of(recipe: Recipe, model: str | None) -> "Chat":
    """The chat template and tokenizer of a checkpoint, else of what the recipe's pretraining starts from."""
    from vila2cli.model.chat import Chat

    model = model or recipe.pretrain.model or None
    if model is None:
        from vila2cli.model.build import build

        return Chat(build(recipe.base, seed=recipe.seed)[1], recipe.pretrain.main.chat_template)
    from vila2cli.model.checkpoint import resolve_model
    from vila2cli.model.loading import load_processor

    return Chat(load_processor(resolve_model(model)), recipe.pretrain.main.chat_template)


def show_tokens(
    source: Source, chat: "Chat", recipe: Recipe, num: int = 3, *, start: int = 0, colour: bool = False
) -> Texts:
    """The text of `num` training samples from `start` on, made by the code that training uses.

    Captions are composed as [pretrain.main] says. A run of image tokens is one mark with a count; special
    tokens are shown as spelt, and nothing in the text can move the cursor or colour the screen.
    """
    return Texts(list(islice(_texts(source, chat, recipe, colour), start, start + num)))


def _texts(source: Source, chat: "Chat", recipe: Recipe, colour: bool) -> Iterator[str]:
    from vila2cli.train.data import encode_sample

    settings = recipe.pretrain.main
    composition = composition_of(settings, recipe.seed, answers=settings.answers)
    rejects: list[Reject] = []
    for shard in source.shards:
        for sample in read_shard(shard, on_reject=rejects.append):
            name = f"{shard.name}/{sample.key}"
            if not is_kept(sample):
                yield f"{printable(name)}: left out by a filter"
                continue
            for turns in _shown(shard.name, sample, composition) or [()]:
                try:
                    encoded = encode_sample(
                        sample, chat, turns, settings.max_length, recipe.data.max_pixels, recipe.data.draft
                    )
                except Unusable as error:
                    yield printable(f"{name}: untrainable: {error}")
                else:
                    yield f"{printable(name)}: {tokens_text(encoded, chat, colour=colour)}"


def _shown(shard: str, sample: Sample, composition: Composition) -> list[Sequence[Turn]]:
    """What a sample is trained on; of captions that one is drawn of that of the first epoch."""
    shown: list[Sequence[Turn]] = [*conversations(sample, composition)]
    if drawn := alternatives(sample, composition):
        name = Choice(composition.choose, composition.seed).draw(shard, sample.key, drawn)
        shown.insert(0, drawn[str(name)])
    return shown


def tokens_text(sample: "TrainSample", chat: "Chat", *, colour: bool) -> str:
    """Counts, then the text of all ids in order."""
    from vila2cli.model.chat import IGNORE_INDEX

    kinds = [
        "image" if token == chat.image_token_id else "trained" if label != IGNORE_INDEX else "given"
        for token, label in zip(sample.ids, sample.labels, strict=True)
    ]
    parts = []
    place = 0
    for kind, run in groupby(kinds):
        length = len(list(run))
        parts.append(_run_text(sample.ids[place : place + length], kind, chat, colour=colour))
        place += length
    counts = f"{len(kinds)} tokens, {kinds.count('trained')} trained, {kinds.count('image')} of images"
    return f"{counts}\n  {''.join(parts)}"


def _run_text(ids: Sequence[int], kind: str, chat: "Chat", *, colour: bool) -> str:
    if kind == "image":
        return _wrapped(f"<image x {len(ids)}>", IMAGE if colour else ("", ""))
    text = _safe(chat.tokenizer.decode(list(ids), skip_special_tokens=False))
    if kind != "trained":
        return text
    around: Any = TRAINED if colour else PLAIN_TRAINED
    # Each line by itself, so that a pager which shows one line shows its colour.
    return "\n  ".join(_wrapped(line, around) for line in text.split("\n  "))


def _wrapped(text: str, around: tuple[str, str]) -> str:
    return f"{around[0]}{text}{around[1]}" if text else ""


def _safe(text: str) -> str:
    r"""Text with each newline shown as `\n` at the end of its line, and all else that is hidden as escapes."""
    for mark in PLAIN_TRAINED:
        text = text.replace(mark, mark.encode("unicode_escape").decode())
    return "\\n\n  ".join(printable(line) for line in text.split("\n"))
