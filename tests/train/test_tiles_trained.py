"""Pictures of one to seven tiles in training: packed as padded, features kept, and what is too long."""

import copy
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_packing import assert_same_gradients, backward
from transformers import PreTrainedModel

from tiny_vlm import picture
from vila2cli.model.build import build
from vila2cli.model.chat import Chat
from vila2cli.model.freeze import part_of
from vila2cli.settings import BaseSettings
from vila2cli.settings.training import BlendSettings
from vila2cli.shards import TarWriter, open_source
from vila2cli.shards.members import Unusable
from vila2cli.shards.sample import EncodedImage, Sample, Turn
from vila2cli.text.compose import Composition, conversations
from vila2cli.train.attention import joins_sequences, set_kernel
from vila2cli.train.data import TrainSample, encode_sample
from vila2cli.train.features import TowerFeatures
from vila2cli.train.objective import Batcher
from vila2cli.train.packing import pack
from vila2cli.train.pictures import Showing
from vila2cli.train.plan import plan_steps
from vila2cli.train.store import SampleStore, store_shard

SHAPES = ((64, 64), (120, 64), (190, 64), (128, 128), (64, 300), (600, 100), (90, 80), (1, 1))


def image(number: int, size: tuple[int, int]) -> EncodedImage:
    stream = io.BytesIO()
    picture(number).resize(size).save(stream, "PNG")
    return EncodedImage(stream.getvalue(), "png")


def conversation(number: int, *sizes: tuple[int, int]) -> Sample:
    turns = [Turn("user", "<image>" * len(sizes) + "What is it?"), Turn("assistant", f"It is number {number}.")]
    images = tuple(image(number + i, size) for i, size in enumerate(sizes))
    return Sample(key=str(number), images=images, meta={"messages": [turn.to_json() for turn in turns]})


@pytest.fixture(scope="module")
def made() -> tuple[PreTrainedModel, Any]:
    return build(BaseSettings(tiles={"method": "catty", "max": 6}), seed=0)


@pytest.fixture(scope="module")
def tiled(made: tuple[PreTrainedModel, Any]) -> Chat:
    return Chat(made[1])


@pytest.fixture(scope="module")
def shown(tiled: Chat) -> list[TrainSample]:
    """A picture each of 1 to 7 tiles, two pictures, and one held to fewer tiles than it has."""
    asked = [conversation(i, size) for i, size in enumerate(SHAPES)] + [conversation(8, SHAPES[1], SHAPES[4])]
    samples = [encode_sample(one, tiled, one.turns, 2048) for one in asked]
    long = conversation(9, SHAPES[5])
    return [*samples, encode_sample(long, tiled, long.turns, 110)]


@pytest.mark.parametrize("kernel", ["sdpa", "sdpa_by_sample"])
def test_packed_pictures_in_tiles_have_the_same_loss_and_gradients(
    made: tuple[PreTrainedModel, Any], tiled: Chat, shown: list[TrainSample], kernel: str
) -> None:
    counts = {tiled.pixel_inputs([one.decoded()])["pixel_values"].shape[1] for one in shown[:8]}
    assert counts == {1, 3, 4, 5, 6, 7}
    assert shown[-1].most_tiles
    plain, padded, packed = (copy.deepcopy(made[0]).train() for _ in range(3))
    set_kernel(packed, kernel)
    alone = backward(plain, Batcher(tiled), [[[one]] for one in shown])
    together = backward(padded, Batcher(tiled), [[[one] for one in shown]])
    places = pack([len(one.ids) for one in shown], [len(one.images) for one in shown], max_tokens=300)
    assert 1 < len(places) < len(shown) / 2
    sequences = [[shown[i] for i in members] for members in places]
    batcher = Batcher(tiled, is_packed=True, in_one=joins_sequences(kernel))
    with Showing(tiled, 2) as showing:  # made ready in threads, as a training does
        in_packs = backward(packed, Batcher(**{**_fields(batcher), "showing": showing}), [sequences])
    assert together == pytest.approx(alone, rel=1e-5)
    assert in_packs == pytest.approx(alone, rel=1e-5)
    assert_same_gradients(plain, padded)
    assert_same_gradients(plain, packed)


def _fields(batcher: Batcher) -> dict[str, Any]:
    return {name: getattr(batcher, name) for name in batcher.__dataclass_fields__}


def test_kept_features_of_tiles_change_neither_loss_nor_gradients(
    made: tuple[PreTrainedModel, Any], tiled: Chat, shown: list[TrainSample]
) -> None:
    one, other = copy.deepcopy(made[0]), copy.deepcopy(made[0])
    expected = backward(one, Batcher(tiled), [[[sample] for sample in shown]])
    features = TowerFeatures(other)
    for _ in range(2):  # filled on the first pass, read on the second
        other.zero_grad()
        loss = backward(other, Batcher(tiled, features), [[[sample] for sample in shown]])
        assert loss == pytest.approx(expected, rel=1e-5)
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        if part_of(name) != "vision_tower" and a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_what_is_too_long_is_shown_in_fewer_tiles_before_it_is_rejected(tiled: Chat) -> None:
    """Tokenised and prepared alike; of a sample's pictures all are held to the same number."""
    sample = conversation(1, (600, 100), (300, 100))
    whole = encode_sample(sample, tiled, sample.turns, 4096)
    assert whole.most_tiles == 0
    seen = set()
    for max_length in range(len(whole.ids), 80, -7):
        fitted = encode_sample(sample, tiled, sample.turns, max_length)
        assert len(fitted.ids) <= max_length
        tiles = tiled.pixel_inputs([fitted.decoded()])["pixel_values"].flatten(2).any(dim=2).sum().item()
        assert list(fitted.ids).count(tiled.image_token_id) == 16 * tiles
        seen.add(fitted.most_tiles)
    assert seen == {0, 5, 4, 3, 2, 1}
    with pytest.raises(Unusable, match="more than max_length = 40"):
        encode_sample(sample, tiled, sample.turns, 40)


def test_fewer_tiles_are_kept_on_disk_and_counted(tiled: Chat, tmp_path: Path) -> None:
    with TarWriter(tmp_path / "000000.tar") as tar:
        for number, size in enumerate(SHAPES):
            one = conversation(number, size)
            tar.write_sample(one.key, {"png": one.images[0].data, "json": json.dumps(one.meta).encode()})
    (shard,) = open_source([str(tmp_path)]).shards
    compose, place = partial(conversations, composition=Composition()), tmp_path / "one.safetensors"
    for _ in range(2):  # written, and read as it was left
        stored = store_shard(shard, tiled, compose, place, max_length=90, check_stop=lambda: None)
        assert (stored.num_samples, len(stored.rejects)) == (len(SHAPES), 0)
        assert stored.num_fewer_tiles == 5
    store = SampleStore([[stored]], [0])
    samples = list(store)
    assert sum(sample.most_tiles > 0 for sample in samples) == 5
    counted = []
    with Showing(tiled, 1) as showing:
        for sample, (ready,) in zip(samples, showing.images(samples), strict=True):
            tiles = tiled.pixel_inputs([[ready]])["pixel_values"].shape[1]
            assert list(sample.ids).count(tiled.image_token_id) == 16 * tiles
            counted.append(tiles)
    assert counted == store.lengths.tiles.tolist() != store.lengths.images.tolist()
    # What bounds the pictures of a packed sequence bounds what the tower is given: their tiles.
    settings = BlendSettings(packing=True, pack_images=4, batch_size=len(SHAPES))
    (step,) = plan_steps(store.lengths, ["one"], settings, seed=0)
    packs = [[counted[i] for i in members] for micro in step.micro_batches for members in micro]
    assert max(map(len, packs)) > 1
    assert all(len(tiles) == 1 or sum(tiles) <= 4 for tiles in packs)
