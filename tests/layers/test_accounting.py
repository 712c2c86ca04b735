"""Accounting and completion of layers."""

import json
from multiprocessing import get_context
from pathlib import Path

import pytest
from layer_data import caption, make_base, read_all, work, write_layer

from vila2cli.errors import DataError
from vila2cli.shards import (
    ShardStats,
    folder_figures,
    folder_stats,
    num_samples,
    open_layer,
    open_source,
    read_shard,
)
from vila2cli.shards.rejects import are_too_many
from vila2cli.shards.sample import Reject


@pytest.mark.parametrize(
    ("num_failed", "num", "max_rate", "fails"),
    [
        (1, 10, 0.05, False),  # one alone, however few there are
        (1, 10, 0.0, True),
        (1, 1, 0.05, True),  # nothing is left
        (1, 1, 1.0, False),
        (2, 39, 0.05, True),
        (2, 40, 0.05, False),
        (0, 0, 0.0, False),
    ],
)
def test_what_share_of_failures_is_too_large(num_failed: int, num: int, max_rate: float, fails: bool) -> None:
    assert are_too_many(num_failed / max(1, num), num_failed, max_rate) is fails


def test_in_is_out_and_dropped(tmp_path: Path) -> None:
    source = open_source([str(make_base(tmp_path / "data", 2, 5, bad=True))])
    writer = open_layer(tmp_path / "r1", layer="recaption", source=source)
    for shard in source.shards:
        with writer.shard(shard) as out:
            for sample in out.samples():
                if sample.key.endswith("2"):
                    out.reject(Reject(shard.name, sample.key, "repetition", "said the same\nagain"))
                elif sample.key.endswith("3"):
                    out.skip(sample, "not-drawn")
                else:
                    out.annotate(sample, caption("x"))
                    out.count(tokens=5, answered=1)
    total = writer.finish()
    assert (total.num_in, total.num_out, total.num_rejected, total.tokens) == (10, 4, 4, 20)
    assert total.dropped == {"not-drawn": 2, "not-utf8": 2, "repetition": 2}
    assert total.reject_rate == 0.4
    assert total == folder_stats(tmp_path / "r1")
    stats = json.loads((tmp_path / "r1" / "000001.stats.json").read_text())
    assert stats["in"] == stats["out"] + sum(stats["dropped"].values()) == 5
    assert stats["answered"] == 2
    rejects = [json.loads(line) for line in (tmp_path / "r1" / "rejects.jsonl").read_text().splitlines()]
    assert [(reject["shard"], reject["key"]) for reject in rejects] == [
        ("000000", "0-1"),
        ("000000", "0-2"),
        ("000001", "1-1"),
        ("000001", "1-2"),
    ]
    layered = open_source([str(tmp_path / "r1")])
    assert [num_samples(shard) for shard in layered.shards] == [5, 5]
    assert [len(sample.annotations) for sample in read_all(layered)] == [1, 0, 0, 1] * 2


def test_rejects_of_a_plain_reader_add_up_too(tmp_path: Path) -> None:
    source = open_source([str(make_base(tmp_path / "data", 1, bad=True))])
    writer = open_layer(tmp_path / "r1", layer="recaption", source=source)
    with writer.shard(source.shards[0]) as out:
        for sample in read_shard(source.shards[0], on_reject=out.reject):
            out.annotate(sample, caption("x"))
    assert (writer.stats().num_in, writer.stats().num_out) == (4, 3)


@pytest.mark.parametrize("through_writer", [True, False])
def test_a_forgotten_sample_is_noticed(tmp_path: Path, base: Path, through_writer: bool) -> None:
    source = open_source([str(base)])
    shard = source.shards[0]
    writer = open_layer(tmp_path / "r1", layer="recaption", source=source)
    out = writer.shard(shard)
    for sample in out.samples() if through_writer else read_shard(shard, on_reject=out.reject):
        if not sample.key.endswith("2"):
            out.annotate(sample, caption("x"))
    with pytest.raises(AssertionError, match="4 in, but 3 out and 0 dropped"):
        out.close()
    assert writer.done() == set()
    assert [path.name for path in (tmp_path / "r1").iterdir()] == ["layer.json"]


def test_order_of_answers_does_not_matter(tmp_path: Path, base: Path) -> None:
    source = open_source([str(base)])
    contents = []
    for out_dir, turn in ((tmp_path / "a", 1), (tmp_path / "b", -1)):
        writer = open_layer(out_dir, layer="recaption", source=source)
        opened = [writer.shard(shard) for shard in source.shards]
        waiting = [(out, sample) for out in opened for sample in out.samples()]
        for out, sample in waiting[::turn]:
            out.annotate(sample, caption(sample.key))
        for out in opened[::turn]:
            out.close()
        writer.finish()
        contents.append([(out_dir / f"{shard.name}.tar.gz").read_bytes() for shard in source.shards])
    assert contents[0] == contents[1]


def test_failed_shard_leaves_nothing_and_resume_does_the_rest(tmp_path: Path, base: Path) -> None:
    source = open_source([str(base)])
    layer = write_layer(tmp_path / "r1", source, names={"000000"})
    before = (layer / "layer.json").stat().st_mtime_ns
    writer = open_layer(layer, layer="recaption", source=source)

    def interrupted() -> None:
        with writer.shard(source.shards[1]) as out:
            for sample in out.samples():
                out.annotate(sample, caption("x"))
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert writer.done() == {"000000"}
    write_layer(layer, source, names={"000001", "000002"})
    assert writer.done() == {"000000", "000001", "000002"}
    assert (layer / "layer.json").stat().st_mtime_ns == before
    assert not list(layer.glob("*partial*"))


def test_resume_with_other_shards_is_an_error(tmp_path: Path, base: Path, layer: Path) -> None:
    with pytest.raises(DataError, match="holds layer 'recaption', not 'ocr'"):
        open_layer(layer, layer="ocr", source=open_source([str(base)]))
    with pytest.raises(DataError, match="was started over other shards: '000002'"):
        open_layer(layer, layer="recaption", source=open_source([f"{base}/00000[01].tar"]))


def test_all_samples_rejected_is_a_valid_layer(tmp_path: Path, base: Path) -> None:
    source = open_source([str(base / "000000.tar")])
    writer = open_layer(tmp_path / "r1", layer="recaption", source=source)
    with writer.shard(source.shards[0]) as out:
        for sample in out.samples():
            out.reject(Reject(out.name, sample.key, "empty", ""))
    assert [sample.annotations for sample in read_all(open_source([str(tmp_path / "r1")]))] == [()] * 4


def test_workers_share_a_folder(tmp_path: Path) -> None:
    base = make_base(tmp_path / "data", 9, 2)
    processes = [get_context("fork").Process(target=work, args=(tmp_path / "r1", base, i)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len((tmp_path / "r1" / "rejects.jsonl").read_text().splitlines()) == 18
    assert folder_stats(tmp_path / "r1").num_in == 18
    assert json.loads((tmp_path / "r1" / "summary.json").read_text())["in"] == 18
    assert not list((tmp_path / "r1").glob("*partial*"))


def test_stats_add_up(tmp_path: Path) -> None:
    one = {"in": 3, "out": 1, "dropped": {"a": 2}, "rejected": 2, "seconds": 1.5, "tokens": 4, "bytes": 10}
    write_stats(tmp_path, one, {"in": 1, "out": 0, "dropped": {"a": 1}, "seconds": 0.5})
    assert folder_stats(tmp_path) == ShardStats(
        num_in=4, num_out=1, dropped={"a": 3}, num_rejected=2, seconds=2.0, tokens=4, bytes=10
    )
    assert ShardStats().reject_rate == 0.0


def write_stats(folder: Path, *stats: dict) -> list[str]:
    names = [f"{number:06}" for number in range(len(stats))]
    for name, figures in zip(names, stats, strict=True):
        (folder / f"{name}.tar").touch()
        (folder / f"{name}.stats.json").write_text(json.dumps(figures))
    return names


def test_counters_of_the_old_form_are_read_as_groups(tmp_path: Path) -> None:
    old = {
        "kept_model": 5,
        "kept_original": 1,
        "by_logprob": 5,
        "finish_stop": 6,
        "prompt_long-v2": 6,
        "defect_repetition": 2,
        "fallback_repetition": 1,
        "error_prompt of # tokens does not fit": 1,
        "words": 40,
        "made_from": {"000000": {"num_bytes": 7}},
    }
    new = {"kept": {"model": 3}, "finish_reasons": {"stop": 2, "length": 1}, "words": 2, "taken": {"kept": 9}}
    figures = folder_figures(tmp_path, write_stats(tmp_path, old, new))
    assert figures["kept"] == {"model": 8, "original": 1}
    assert figures["finish_reasons"] == {"stop": 8, "length": 1}
    assert figures["errors"] == {"prompt of # tokens does not fit": 1}
    assert (figures["chosen_by"], figures["prompts"]) == ({"logprob": 5}, {"long-v2": 6})
    assert (figures["defects"], figures["fallbacks"]) == ({"repetition": 2}, {"repetition": 1})
    assert (figures["words"], figures["never counted"]) == (42, 0)
    assert not {"kept_model", "made_from", "taken"} & figures.keys()


def test_a_group_of_counters_is_checked_like_any_count(tmp_path: Path) -> None:
    names = write_stats(tmp_path, {"kept_model": -1})
    with pytest.raises(DataError, match=r"kept.*was it edited\?"):
        folder_figures(tmp_path, names)
