import json

import pytest

from vila2cli.errors import DataError, RecipeError
from vila2cli.judging.pairing import draw_samples
from vila2cli.shards import TarWriter, open_layer, open_source, read_shard
from vila2cli.shards.sample import Annotation


def write_base(folder, num_samples, samples_per_shard, *, bare=()):
    for start in range(0, num_samples, samples_per_shard):
        with TarWriter(folder / f"{start:06d}.tar") as tar:
            for number in range(start, min(start + samples_per_shard, num_samples)):
                members = {"jpg": b"picture %d" % number, "txt": b"alt", "json": json.dumps({}).encode()}
                if number in bare:
                    members |= {"txt": b" "} if number % 2 else {}
                    members = {name: data for name, data in members.items() if number % 2 or name != "txt"}
                tar.write_sample(f"k{number:03d}", members)
    return folder


def write_layer(base, folder, *, kind="caption", without=()):
    source = open_source([str(base)])
    writer = open_layer(folder, layer="recaption", source=source)
    for shard in source.shards:
        with writer.shard(shard) as out:
            for sample in out.samples():
                if sample.key in without:
                    out.skip(sample, "not-drawn")
                else:
                    out.annotate(
                        sample, Annotation(layer="recaption", kind=kind, text=f"{folder.name} {sample.key}")
                    )
    writer.finish()
    return str(folder)


def drawn_keys(draw):
    return {key for found in draw.drawn.values() for key in found}


def test_the_draw_does_not_depend_on_how_the_base_is_cut(tmp_path):
    found = []
    for size in (4, 7, 20):
        base = write_base(tmp_path / f"base{size}", 20, size)
        layer = write_layer(base, tmp_path / f"r{size}")
        found.append(drawn_keys(draw_samples(["alt-text", layer], num_samples=6, seed=0)))
    assert len(found[0]) == 6
    assert found[0] == found[1] == found[2]


def test_another_seed_draws_other_samples(tmp_path):
    layer = write_layer(write_base(tmp_path / "base", 40, 10), tmp_path / "r1")
    first, second = (drawn_keys(draw_samples(["alt-text", layer], num_samples=10, seed=s)) for s in (0, 1))
    assert first != second


def test_only_samples_that_every_layer_captions_are_drawn(tmp_path):
    base = write_base(tmp_path / "base", 8, 4)
    r1 = write_layer(base, tmp_path / "r1", without={"k001"})
    r2 = write_layer(base, tmp_path / "r2", without={"k006"})
    draw = draw_samples(["alt-text", r1, r2], num_samples=100, seed=0)
    assert drawn_keys(draw) == {f"k{n:03d}" for n in (0, 2, 3, 4, 5, 7)}
    assert draw.num_candidates == 6
    assert draw.pairs == [(r2, "alt-text"), (r1, "alt-text"), (r2, r1)]
    shard = draw.source.shards[0]
    captions = {s.key: draw.captions_of(shard.name, s) for s in read_shard(shard, on_reject=pytest.fail)}
    assert captions["k000"] == {"alt-text": "alt", r1: "r1 k000", r2: "r2 k000"}
    assert captions["k001"] is None


def test_what_has_no_alt_text_is_passed_over_in_the_draw(tmp_path):
    bare = {0, 1, 2, 3, 5, 8}
    base = write_base(tmp_path / "base", 12, 4, bare=bare)
    r1, r2 = (write_layer(base, tmp_path / name) for name in ("r1", "r2"))
    draw = draw_samples(["alt-text", r1], num_samples=6, seed=0)
    assert drawn_keys(draw) == {f"k{n:03d}" for n in range(12) if n not in bare}
    assert draw.num_lacking <= 6
    assert draw_samples(["alt-text", r1], num_samples=100, seed=0).num_lacking == 6
    assert len(drawn_keys(draw_samples([r1, r2], num_samples=100, seed=0))) == 12


def test_shards_restrict_the_draw(tmp_path):
    base = write_base(tmp_path / "base", 8, 4)
    layer = write_layer(base, tmp_path / "r1")
    draw = draw_samples(["alt-text", layer], [str(base / "000004.tar")], num_samples=100, seed=0)
    assert drawn_keys(draw) == {"k004", "k005", "k006", "k007"}


def test_pictures_that_differ_are_refused(tmp_path):
    base = write_base(tmp_path / "base", 4, 4)
    layer = write_layer(base, tmp_path / "r1")
    draw = draw_samples(["alt-text", layer], num_samples=4, seed=0)
    shard = draw.source.shards[0]
    with TarWriter(base / "000000.tar") as tar:
        tar.write_sample("k000", {"jpg": b"another one", "txt": b"alt"})
    sample = next(read_shard(shard, on_reject=pytest.fail))
    with pytest.raises(DataError, match="another picture"):
        draw.captions_of(shard.name, sample)


def test_layers_that_cannot_be_compared_are_errors(tmp_path):
    base = write_base(tmp_path / "base", 4, 4)
    layer = write_layer(base, tmp_path / "r1")
    for layers in ([layer], [layer, layer], ["alt-text"]):
        with pytest.raises(RecipeError, match="two or more different layers"):
            draw_samples(layers, num_samples=4, seed=0)
    with pytest.raises(DataError, match="no layer folder"):
        draw_samples(["alt-text", str(base)], num_samples=4, seed=0)
    turns = write_layer(base, tmp_path / "spatial", kind="turns")
    with pytest.raises(DataError, match="kind 'turns'"):
        draw_samples(["alt-text", turns], num_samples=4, seed=0)
    other = write_layer(write_base(tmp_path / "other", 5, 5), tmp_path / "r2")
    with pytest.raises(DataError, match="no sample has a caption in each"):
        draw_samples([layer, other], num_samples=4, seed=0)
