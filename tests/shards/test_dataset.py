"""Samples for trainers of one's own: split over ranks and workers, each once, with the captions of a layer."""

import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import webdataset
from stream_data import jpeg, write_layer
from torch.utils.data import DataLoader

from archives import JPEG, write_tar
from loopback import Web
from vila2cli.errors import DataError, DataWarning, RecipeError
from vila2cli.image import decode_image
from vila2cli.shards import TarWriter, dataset, open_layer, open_source
from vila2cli.shards.sample import Annotation, Reject

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
ARCHIVES = Path(os.environ.get("VILA2_TEST_DATA", Path(__file__).parents[2] / "../shared/data")) / "wds"
MEMBERS = {"jpg", "png", "txt", "json"}
NUM_SHARDS, NUM_EACH = 3, 10
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # more workers than processors
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # which webdataset alone leaves open
]
KEYS = [f"{shard}-{number}" for shard in range(NUM_SHARDS) for number in range(NUM_EACH)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of ten samples, and a caption layer over them."""
    root = tmp_path_factory.mktemp("dataset")
    for shard in range(NUM_SHARDS):
        with TarWriter(root / "data" / f"{shard:06}.tar") as tar:
            for number in range(NUM_EACH):
                members = {"jpg": jpeg(NUM_EACH * shard + number), "txt": b"alt", "json": b'{"n": 1}'}
                tar.write_sample(f"{shard}-{number}", members)
    write_layer(root / "r1", open_source([str(root / "data")]))
    return root


def first(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return samples[0]


def read(data: Any, workers: int = 0, **options: Any) -> list[dict[str, Any]]:
    return list(DataLoader(data, batch_size=1, collate_fn=first, num_workers=workers, **options))


def keys(samples: list[dict[str, Any]]) -> list[str]:
    return [sample["__key__"] for sample in samples]


def annotate(out: Path, base: Path, layer: str, values: dict[str, Any], kind: Any = "caption") -> Path:
    """A layer over one shard; keys that are not among the values are skipped."""
    source = open_source([str(base)])
    writer = open_layer(out, layer=layer, source=source)
    with writer.shard(source.shards[0]) as shard:
        for sample in shard.samples():
            if sample.key in values:
                shard.annotate(sample, Annotation(layer=layer, kind=kind, **values[sample.key]))
            else:
                shard.skip(sample, "not-drawn")
    writer.finish()
    return out


# Every sample once


@pytest.mark.parametrize("shuffle", [0, 8])
@pytest.mark.parametrize(("num_ranks", "workers"), [(1, 0), (1, 1), (1, 4), (2, 0), (2, 4), (5, 2)])
def test_every_sample_comes_once(root: Path, num_ranks: int, workers: int, shuffle: int) -> None:
    """Also where the three shards are fewer than ranks times workers."""
    options: dict[str, Any] = {"caption": "recaption", "shuffle": shuffle}
    samples = [
        sample
        for rank in range(num_ranks)
        for sample in read(dataset(root / "r1", rank=(rank, num_ranks), **options), workers)
    ]
    assert sorted(keys(samples)) == sorted(KEYS)
    for sample in samples:
        assert sample["caption"] == f"recaption {sample['__key__']}"
        assert (sample["text"], sample["json"], sample["image"].mode) == ("alt", {"n": 1}, "RGB")


def test_spawned_workers_know_the_rank(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    data = dataset(root / "r1", caption="recaption", decode=False)
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    here = keys(list(loader))
    monkeypatch.setenv("RANK", "0")
    assert sorted(here + keys(read(data, 2))) == sorted(KEYS)
    kept = pickle.loads(pickle.dumps(data))
    monkeypatch.setenv("RANK", "1")
    assert keys(list(kept)) == keys(read(dataset(root / "r1", caption="recaption", rank=(0, 2))))


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize(("per_rank", "number"), [("drop", 7), ("pad", 8)])
def test_all_ranks_have_the_same_number(root: Path, per_rank: Any, number: int, workers: int) -> None:
    options: dict[str, Any] = {"caption": "recaption", "per_rank": per_rank, "shuffle": 8}
    ranks = [read(dataset(root / "r1", rank=(rank, 4), **options), workers) for rank in range(4)]
    assert [len(samples) for samples in ranks] == [number] * 4
    assert dataset(root / "r1", rank=(0, 4), **options).num_per_rank == number
    times = Counter(key for samples in ranks for key in keys(samples))
    missing, repeated = len(KEYS) - len(times), sum(times.values()) - len(times)
    assert (missing, repeated) == ((2, 0) if per_rank == "drop" else (0, 2))


def test_ranks_have_the_same_number_of_samples_that_can_be_used(tmp_path: Path) -> None:
    """What a filter or the caption layer leaves out has no number; what cannot be decoded is made up for."""
    members = [(f"{n}.jpg", b"\xff\xd8 no image" if n == 5 else JPEG) for n in range(9)]
    base = write_tar(tmp_path / "data" / "0.tar", members)
    captions = {f"{n}": {"text": f"caption {n}"} for n in range(8)}
    layer = annotate(tmp_path / "r1", base, "recaption", captions)
    keep = {f"{n}": {"scores": {"keep": n > 1}} for n in range(9)}
    above = annotate(tmp_path / "filter", layer, "filter", keep, "score")
    options: dict[str, Any] = {"caption": "recaption", "per_rank": "drop", "on_reject": lambda reject: None}
    ranks = [keys(read(dataset(above, rank=(rank, 2), **options))) for rank in range(2)]
    assert ranks == [["2", "3", "4"], ["6", "7", "6"]]
    only_filter = [str(base), str(annotate(tmp_path / "f", base, "filter", keep, "score"))]
    ranks = [keys(read(dataset(only_filter, rank=(n, 2), **options | {"caption": None}))) for n in range(2)]
    assert ranks == [["2", "3", "4"], ["6", "7", "6"]]


def test_more_ranks_than_samples_are_refused(tmp_path: Path) -> None:
    base = write_tar(tmp_path / "0.tar", [("a.jpg", JPEG)])
    with pytest.raises(DataError, match="1 samples cannot be shared by 2 ranks"):
        list(dataset(base, per_rank="pad", rank=(0, 2)))


# Order


def test_order_is_drawn_by_seed_and_epoch(root: Path) -> None:
    def order(seed: int, epoch: int) -> list[str]:
        data = dataset(root / "data", shuffle=8, seed=seed, decode=False)
        data.set_epoch(epoch)
        return keys(read(data, 2))

    drawn = [order(0, 0), order(0, 1), order(1, 0)]
    assert drawn[0] == order(0, 0) != KEYS
    assert len({tuple(once) for once in drawn}) == 3
    assert keys(list(dataset(root / "data"))) == KEYS


def test_workers_that_persist_are_told_the_epoch(root: Path) -> None:
    data = dataset(root / "data", shuffle=8, decode=False)
    loader = DataLoader(data, batch_size=None, num_workers=2, persistent_workers=True)
    orders = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        orders.append(keys(list(loader)))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(KEYS)


def test_it_is_a_pipeline_of_webdataset(root: Path) -> None:
    data = dataset(root / "r1", caption="recaption", shuffle=4)
    assert isinstance(data, webdataset.DataPipeline)
    batches = list(data.compose(webdataset.to_tuple("__key__", "caption"), webdataset.batched(8)))
    assert sorted(key for batch in batches for key in batch[0]) == sorted(KEYS)
    assert batches[0][1] == [f"recaption {key}" for key in batches[0][0]]
    longer = keys(list(data.with_epoch(45)))
    assert len(longer) == 45
    assert sorted(longer[:30]) == sorted(KEYS)
    assert longer[30:] != longer[:15]


# What is in a sample, and what is left out


def test_raw_members_are_those_of_webdataset(root: Path) -> None:
    plain = webdataset.DataPipeline(
        webdataset.SimpleShardList([str(root / "data" / "000000.tar")]), webdataset.tarfile_to_samples()
    )
    ours = list(dataset(root / "data" / "000000.tar", decode=False))
    theirs = [{**sample, "caption.txt": b"alt"} for sample in plain]
    for sample in theirs:
        sample.pop("__local_path__", None)
    assert ours == theirs
    decoded = next(
        iter(dataset(root / "r1", caption="recaption", decode=False).compose(webdataset.decode("pil")))
    )
    assert (decoded["caption.txt"], decoded["txt"], decoded["json"]) == ("recaption 0-0", "alt", {"n": 1})


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    members = [
        (f"{n}.{extension}", data) for n in range(6) for extension, data in (("jpg", JPEG), ("txt", b"a"))
    ]
    members += [("x.v1.jpg", JPEG), ("no-picture.txt", b"alone"), ("6.jpg", b"\xff\xd8 no image")]
    members += [("bad.jpg", JPEG), ("bad.json", b"{")]
    base = write_tar(tmp_path / "data" / "0.tar", members)
    captions = {key: {"text": f"caption {key}"} for key in ("0", "1", "2", "3", "6")}
    layer = annotate(tmp_path / "r1", base, "recaption", captions)
    above = annotate(tmp_path / "f", layer, "filter", {"1": {"scores": {"keep": False}}}, "score")
    rejects: list[Reject] = []
    data = dataset(above, caption="recaption", on_reject=rejects.append)
    assert keys(list(data)) == ["0", "2", "3"]
    known = {"filtered": 1, "no-caption": 3, "bad-image": 1, "dotted-name": 1, "bad-json": 1}
    assert data.left_out == known
    assert {(reject.key, reject.reason) for reject in rejects} >= {("6", "bad-image"), ("x", "dotted-name")}
    with pytest.warns(DataWarning) as warned:
        assert keys(list(dataset(above, caption="recaption"))) == ["0", "2", "3"]
    texts = [str(warning.message).partition("cannot be used: ")[2].partition(": ")[0] for warning in warned]
    assert texts == ["1 bad-image; the first is 6", "1 dotted-name, 1 bad-json; the first is x"]
    assert sorted(keys(read(data, 4))) == ["0", "2", "3"]
    assert data.left_out == known, "over the workers, which share one shard"
    texts = dataset(base, may_lack_images=True, on_reject=rejects.append)
    assert keys(list(texts)) == [*"012345", "no-picture"]
    plain = dataset(base, on_reject=lambda reject: None)
    assert keys(list(plain)) == list("012345")
    assert plain.left_out == {"no-image": 1, "bad-image": 1, "dotted-name": 1, "bad-json": 1}


def test_several_images_and_text_alone(tmp_path: Path) -> None:
    talk = json.dumps({"messages": [{"role": "user", "content": "2+2?"}]}).encode()
    one, other = jpeg(1), jpeg(2)
    members = [("a.1.jpg", one), ("a.0.png", other), ("a.txt", b"two"), ("b.json", talk)]
    base = write_tar(tmp_path / "0.tar", members)
    two, text = dataset(base)
    assert [image.tobytes() for image in two["images"]] == [
        decode_image(data).tobytes() for data in (other, one)
    ]
    assert two["image"] is two["images"][0]
    assert (text["images"], text["caption"], "image" in text) == ([], None, False)
    assert text["json"]["messages"][0]["content"] == "2+2?"
    raw = next(iter(dataset(base, decode=False)))
    assert raw.keys() - {"__key__", "__url__"} == {"0.png", "1.jpg", "txt", "caption.txt"}
    assert keys(list(dataset(base, caption="original"))) == ["a"]


def test_the_caption_has_to_be_named(root: Path) -> None:
    with pytest.raises(RecipeError, match="which caption"):
        dataset(root / "r1")
    with pytest.raises(RecipeError, match="no layer 'r1' over these shards; there are recaption"):
        dataset(root / "r1", caption="r1")
    assert next(iter(dataset(root / "r1", caption="original")))["caption"] == "alt"


# Where shards are


@pytest.fixture
def places(data: Path, web: Web) -> list[str]:
    return [f"{web.url}/data/{{000000..000002}}.tar", f"file://{data}/data/000000.tar"]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_shards_on_the_web_and_by_file_url(places: list[str], data: Path, workers: int) -> None:
    expected = {sample["__key__"]: sample["image"].tobytes() for sample in dataset(data / "data")}
    remote = read(dataset(places[0]), workers)
    assert len(remote) == len(expected)
    assert {sample["__key__"]: sample["image"].tobytes() for sample in remote} == expected
    here = dataset(places[1], shuffle=4)
    assert sorted(keys(read(here, workers))) == sorted(key for key in expected if key.startswith("0-"))


@pytest.mark.skipif(not ARCHIVES.is_dir(), reason=f"needs real archives in {ARCHIVES}")
@pytest.mark.parametrize("workers", [0, 4])
def test_real_archives(workers: int) -> None:
    """The same keys and bytes as webdataset finds in third-party archives with pictures or texts."""
    num_read = 0
    for path in sorted([*ARCHIVES.rglob("*.tar"), *ARCHIVES.rglob("*.t*gz")]):
        plain = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
        known = {sample["__key__"]: sample for sample in plain if sample.keys() & MEMBERS}
        if known:
            found = read(dataset(path, decode=False, may_lack_images=True), workers)
            assert sorted(keys(found)) == sorted(known)
            for sample in found:
                theirs = known[sample["__key__"]]
                assert {name: sample[name] for name in theirs if name in MEMBERS} == {
                    name: data for name, data in theirs.items() if name in MEMBERS
                }
            num_read += len(found)
    assert num_read > 100


# The loop of the guide


def test_the_loop_of_the_guide(root: Path, tmp_path: Path) -> None:
    """On two ranks, as torchrun starts them: every sample once an epoch, with the layer's caption."""
    text = PAGE.read_text().partition("## Your own trainer")[2]
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    (tmp_path / "train.py").write_text(code[1])
    tars = sorted(str(path) for path in (root / "data").glob("*.tar"))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "train.py",
    ]
    done = subprocess.run(
        [*command, "--shards", *tars, str(root / "r1"), "--workers", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    seen = Counter(tuple(line.split("\t")) for line in done.stdout.splitlines())
    assert seen == {(str(epoch), key, f"recaption {key}"): 1 for epoch in range(2) for key in KEYS}
