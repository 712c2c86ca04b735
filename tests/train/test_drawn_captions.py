"""`choose`: one of several captions of a sample is trained in each epoch."""

from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conversing import conversations as conversing

from vila2cli.files import to_json_bytes
from vila2cli.model.chat import Chat
from vila2cli.settings import SourceSettings
from vila2cli.settings.training import BlendSettings
from vila2cli.shards import Shard, TarWriter, open_layer, open_source
from vila2cli.shards.sample import Annotation
from vila2cli.text.choose import Choice
from vila2cli.text.compose import Composition, alternatives, conversations
from vila2cli.train.choosing import Choosing
from vila2cli.train.plan import drawn_captions, plan_pass, plan_steps
from vila2cli.train.store import SampleStore, Stored, store_shard

SHARES = {"original": 0.2, "recaption": 0.5, "short": 0.3}
NUM = 100_000


def test_shares_are_reached_and_draws_depend_on_key_seed_and_epoch_alone() -> None:
    choice = Choice(SHARES, seed=3)
    hashes = np.array([choice.hash("000001", f"{i:09}") for i in range(NUM)], np.uint64)
    masks = np.full(NUM, 0b111, np.int64)
    epochs = [choice.draws(hashes, masks, epoch) for epoch in range(3)]
    for drawn in epochs:
        shares = np.bincount(drawn, minlength=3) / NUM
        assert dict(zip(choice.names, shares, strict=True)) == pytest.approx(SHARES, abs=0.005)
    by_chance = sum(share**2 for share in SHARES.values())
    for one, next_one in pairwise(epochs):
        assert (one == next_one).mean() == pytest.approx(by_chance, abs=0.005)
    part = np.arange(NUM)[::7]
    assert (choice.draws(hashes[part], masks[part], 2) == epochs[2][part]).all()
    turned = Choice(dict(reversed(SHARES.items())), seed=3)
    assert (turned.draws(hashes, masks, 1) == epochs[1]).all(), "whatever the order in the recipe"
    assert Choice(SHARES, seed=4).hash("000001", "0") != hashes[0]
    for place in range(20):
        drawn_alone = choice.draw("000001", f"{place:09}", SHARES, epoch=1)
        assert drawn_alone == choice.names[epochs[1][place]]


def test_what_a_sample_lacks_leaves_its_share_to_the_others() -> None:
    choice = Choice(SHARES)
    hashes = np.array([choice.hash("0", str(i)) for i in range(NUM)], np.uint64)
    without = np.full(NUM, 0b101, np.int64)  # original and short
    shares = np.bincount(choice.draws(hashes, without, 0), minlength=3) / NUM
    assert shares.tolist() == pytest.approx([0.4, 0, 0.6], abs=0.005)
    assert choice.draw("0", "1", ["short"]) == "short"
    assert choice.draw("0", "1", []) is None


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    """Two shards of 30 pictures under one recaption layer, of which every third sample has none."""
    picture = next(one for one in conversing(12) if one.images).images[0].data
    for shard in range(2):
        with TarWriter(tmp_path / "base" / f"{shard:06}.tar") as tar:
            for number in range(30):
                tar.write_sample(f"{number:02}", {"jpg": picture, "txt": f"alt {shard} {number}".encode()})
            tar.write_sample("talk", {"json": to_json_bytes({"messages": TALK})})
    source = open_source([str(tmp_path / "base")])
    layer = open_layer(tmp_path / "recaption", layer="recaption", source=source)
    for shard_ in source.shards:
        with layer.shard(shard_) as out:
            for number, sample in enumerate(out.samples()):
                if number % 3 == 2:
                    out.skip(sample, "not-selected")
                else:
                    text = f"a new caption of picture {sample.key}"
                    out.annotate(sample, Annotation(layer="recaption", kind="caption", text=text))
    return [tmp_path / "recaption"]


TALK = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A star."}]


def store_of(layers: list[Path], chat: Chat, folder: Path, *, max_samples: int = 0) -> SampleStore:
    shares = {"original": 0.25, "recaption": 0.75}
    composition = Composition(captions=tuple(shares), choose=shares, seed=1)
    choosing = Choosing(Choice(shares, seed=1), partial(alternatives, composition=composition))

    def store(number: int, shard: Shard) -> Stored:
        path = folder / f"{number}.safetensors"
        compose = partial(conversations, composition=composition)
        given = {"max_length": 512, "check_stop": lambda: None, "choosing": choosing}
        return store_shard(shard, chat, compose, path, **given)  # type: ignore[arg-type]

    shards = open_source([str(one) for one in layers]).shards
    stored = [store(number, shard) for number, shard in enumerate(shards)]
    assert [one.num_samples for one in stored] == [31, 31]
    return SampleStore([stored], [max_samples], choices={0: choosing.choice})


def text_of(chat: Chat, store: SampleStore, row: int) -> tuple[str, str]:
    sample = store[row]
    text = chat.tokenizer.decode([label for label in sample.labels if label >= 0], skip_special_tokens=True)
    return sample.key, text.strip()


def test_every_sample_is_trained_once_an_epoch_on_the_caption_drawn(
    layers: list[Path], chat: Chat, tmp_path: Path
) -> None:
    store = store_of(layers, chat, tmp_path / "store")
    settings = BlendSettings(batch_size=7, epochs=3.0, packing=True)
    alone = list(plan_steps(store.lengths, ["pretrain"], settings, seed=5))
    epochs: list[dict[str, str]] = []
    rows = [row for step in alone for row in step.samples]
    for epoch in range(3):
        pairs = [text_of(chat, store, row) for row in rows[62 * epoch : 62 * (epoch + 1)]]
        assert len(dict(pairs)) == len(pairs) == 62
        epochs.append(dict(pairs))
    assert epochs[0] != epochs[1] != epochs[2]
    kinds = Counter(text.split()[0] for texts in epochs for text in texts.values())
    assert set(kinds) == {"alt", "a", "A"}
    for key, text in epochs[1].items():
        shard, name = Path(key).parent.stem, Path(key).name
        if name != "talk":
            has = ["original", "recaption"][: 2 if int(name) % 3 < 2 else 1]
            chosen = Choice({"original": 0.25, "recaption": 0.75}, seed=1).draw(shard, name, has, epoch=1)
            assert text.startswith("alt" if chosen == "original" else "a new")
    ranks = [plan_steps(store.lengths, ["pretrain"], settings, seed=5, rank=r, num_ranks=2) for r in range(2)]
    for step, *parts in zip(alone, *ranks, strict=True):
        own = [i for part in parts for micro in part.micro_batches for members in micro for i in members]
        assert sorted(own) == sorted(step.samples)
    one = plan_pass(store.lengths, ["pretrain"], settings)
    figures = drawn_captions(store.lengths, ["pretrain"], one, epochs=3.0, seed=5)["pretrain"]
    assert figures["original"]["samples"] == kinds["alt"]
    assert figures["recaption"]["samples"] == kinds["a"] == 180 - kinds["alt"]
    assert (figures["recaption"]["lacking"], figures["original"]["lacking"]) == (20, 0)


def test_caps_and_repeats_count_samples_not_captions(layers: list[Path], chat: Chat, tmp_path: Path) -> None:
    store = store_of(layers, chat, tmp_path / "store", max_samples=40)
    assert len(store.lengths.rows(0)) == len(store.lengths.rows(1)) == 40 < len(store)
    settings = BlendSettings(batch_size=10, mixture={"pretrain": SourceSettings(epochs=2.0)})
    rows = [row for step in plan_steps(store.lengths, ["pretrain"], settings, seed=0) for row in step.samples]
    texts = [text_of(chat, store, row) for row in rows]
    assert len(rows) == 80
    assert set(Counter(key for key, _ in texts).values()) == {2}
    assert len(set(texts)) > 40, "the second copy is an epoch of its own"
