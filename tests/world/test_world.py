"""The embedded world: deterministic, split without overlap, and true to its ground truth."""

import hashlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest

from vila2cli.errors import DataError, RecipeError
from vila2cli.image import decode_image
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import open_source, read_shard
from vila2cli.shards.sample import Reject, Sample
from vila2cli.world import sayings
from vila2cli.world.draw import draw_picture
from vila2cli.world.scenes import BUCKETS, PLACES, SIDE, draw_scene
from vila2cli.world.write import TASKS, write_world

SIZES = {
    "num_pretrain": 60,
    "num_interleaved": 6,
    "num_text": 10,
    "num_sft": 12,
    "num_specialist": 10,
    "num_dev": 8,
    "num_eval": 8,
    "samples_per_shard": 25,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    write_world(load_recipe(None, [f"world.{name}={num}" for name, num in SIZES.items()]), out)
    return out


def read(folder: Path) -> list[Sample]:
    rejects: list[Reject] = []
    samples = [
        s for shard in open_source([str(folder)]).shards for s in read_shard(shard, on_reject=rejects.append)
    ]
    assert not rejects
    return samples


def scene_of(sample: Sample) -> str:
    scene = sample.meta["scene"]
    things = [(t["size"], t["colour"], t["shape"], t["place"]) for t in scene["objects"]]
    return f"{things} {scene['text'] and (scene['text']['word'], scene['text']['place'])}"


def test_the_same_seed_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    write_world(load_recipe(None, [f"world.{name}={num}" for name, num in SIZES.items()]), tmp_path)

    def hashes(folder: Path) -> dict[str, str]:
        tars = sorted(folder.rglob("*.tar"))
        return {str(t.relative_to(folder)): hashlib.sha256(t.read_bytes()).hexdigest() for t in tars}

    assert hashes(world) == hashes(tmp_path)
    assert len(hashes(world)) == 3 + 1 + 1 + 1 + 3 + 2 * len(TASKS)


def runs(process: str) -> bool:
    """Whether a process runs; one that has ended may still wait for its parent to hear of it."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_all_cores_draw_is_the_same_and_ends_with_the_command(
    world: Path, tmp_path: Path, number: signal.Signals
) -> None:
    sets = [f"--set=world.{name}={num}" for name, num in {**SIZES, "num_pretrain": 2_000}.items()]
    command = [sys.executable, "-m", "vila2cli", "world", "--out", str(tmp_path / "data"), *sets]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    last = tmp_path / "data" / "pretrain" / "000001.tar"
    while not last.exists() and process.poll() is None:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)  # which ends when nobody holds the pipe any more
    assert process.returncode == (75 if number == signal.SIGTERM else -number), said
    assert children
    end = time.monotonic() + 30
    while any(runs(child) for child in children):
        assert time.monotonic() < end, "a process is left behind"
        time.sleep(0.05)
    # The draws of a folder begin alike, however many there are.
    for shard in ("000000.tar", "000001.tar"):
        assert (tmp_path / "data" / "pretrain" / shard).read_bytes() == (
            world / "pretrain" / shard
        ).read_bytes()


def test_another_seed_gives_other_scenes(world: Path, tmp_path: Path) -> None:
    sets = [f"world.{name}={num}" for name, num in SIZES.items()]
    write_world(load_recipe(None, [*sets, "world.seed=1"]), tmp_path)
    assert {scene_of(s) for s in read(world / "sft")}.isdisjoint(scene_of(s) for s in read(tmp_path / "sft"))


def test_no_scene_is_in_two_splits(world: Path) -> None:
    folders = ["pretrain", "sft", "specialist-ocr", "dev/colour", "eval/colour"]
    scenes = {name: {scene_of(s) for s in read(world / name)} for name in folders}
    for i, one in enumerate(folders):
        for other in folders[i + 1 :]:
            assert scenes[one].isdisjoint(scenes[other]), (one, other)
    covered = sorted(bucket for buckets in BUCKETS.values() for bucket in buckets)
    assert covered == list(range(100))


def test_all_tasks_of_a_split_ask_about_the_same_pictures(world: Path) -> None:
    pictures = {tuple(s.image_sha256 for s in read(world / "eval" / task)) for task in TASKS}
    assert len(pictures) == 1


def test_captions_are_long_and_alt_texts_are_short() -> None:
    random = Random(0)
    scenes = [draw_scene(random, "pretrain") for _ in range(1000)]
    words = [len(sayings.caption(scene).split()) for scene in scenes]
    assert min(words) >= 25
    assert max(words) <= 60
    alt_texts = [sayings.alt_text(scene, random, wrong=0.15, boilerplate=0.15) for scene in scenes]
    assert 6 <= statistics.mean(len(text.split()) for text in alt_texts) <= 10
    assert all(sayings.corrupted_caption(scene, random) != sayings.caption(scene) for scene in scenes[:200])


def test_boxes_hold_the_pixels_that_were_drawn() -> None:
    random = Random(1)
    for _ in range(50):
        scene = draw_scene(random, "eval", with_word=False)
        pixels = np.asarray(draw_picture(scene, random).convert("L"), dtype=float)
        outside = np.ones_like(pixels, dtype=bool)
        for thing in scene.objects:
            x1, y1, x2, y2 = thing.box
            assert (x1 // 32, y1 // 32) == (x2 // 32, y2 // 32)
            inside = pixels[y1:y2, x1:x2]
            assert np.ptp(inside, axis=0).max() > 25 or inside.mean() < 200
            outside[max(0, y1 - 1) : y2 + 2, max(0, x1 - 1) : x2 + 2] = False
        assert np.ptp(pixels[outside]) < 30  # paper and noise, nothing drawn


def test_layouts_name_every_fact() -> None:
    random = Random(2)
    scene = draw_scene(random, "base", with_word=True)
    words = sayings.layout(scene)
    assert len(words) == 16
    for thing in scene.objects:
        assert {thing.size, thing.colour, thing.shape} <= set(words)
    assert scene.writing is not None
    assert set(scene.writing.word) <= set(words)
    marks = {place: words[i] for place, i in zip(PLACES, (3, 7, 11, 15), strict=True)}
    corners = {thing.place: thing.corner for thing in scene.objects}
    for place, mark in marks.items():
        expected = sayings.THING_MARKS[place, corners[place]] if place in corners else sayings.MARKS[place]
        assert mark == expected


def test_relations_are_seen_from_the_other_object() -> None:
    random = Random(3)
    for _ in range(200):
        scene = draw_scene(random, "eval")
        one, other = scene.objects[:2]
        relation = sayings.relation(one, other).split()
        assert ("above" in relation) == (one.box[3] <= other.box[1] + 1 and one.place[:3] != other.place[:3])
        opposite = {"above": "below", "below": "above", "left": "right", "right": "left"}
        assert sayings.relation(other, one).split() == [opposite[word] for word in relation]


def test_every_picture_decodes(world: Path) -> None:
    for name in ("pretrain", "interleaved"):
        for sample in read(world / name):
            assert all(decode_image(image.data).size == (SIDE, SIDE) for image in sample.images)


def test_a_world_of_other_settings_is_not_mixed_in(world: Path) -> None:
    sets = [f"world.{name}={num}" for name, num in SIZES.items()]
    with pytest.raises(RecipeError, match=r"settings\.seed was 0, now 7"):
        write_world(load_recipe(None, [*sets, "world.seed=7"]), world)


def test_a_shard_that_was_cut_off_is_not_kept(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "copy")
    tar = tmp_path / "copy" / "pretrain" / "000001.tar"
    tar.write_bytes(tar.read_bytes()[:10240])
    with pytest.raises(DataError, match=r"pretrain/000001\.tar is damaged or cut off"):
        write_world(
            load_recipe(None, [f"world.{name}={num}" for name, num in SIZES.items()]), tmp_path / "copy"
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_that_draw_is_one_line(tmp_path: Path, number: signal.Signals) -> None:
    """As Slurm and a terminal send it: the processes that draw may end before the one that writes heeds it."""
    line = [sys.executable, "-m", "vila2cli", "world", "--out", "out"]
    with subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True) as drawing:
        while not (tmp_path / "out" / "manifest.json").exists():
            time.sleep(0.01)
        os.killpg(drawing.pid, number)
        assert drawing.stderr is not None
        said = drawing.stderr.read().decode()
    assert drawing.returncode == 75
    assert f"vila2: stopped by {number.name}; run the same command again to go on\n" in said
    assert "Traceback" not in said


def test_a_process_that_draws_and_is_ended_from_outside_is_one_line(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "vila2cli", "world", "--out", "out"]
    with subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE) as drawing:
        while not (tmp_path / "out" / "pretrain" / "000000.tar").exists():
            time.sleep(0.01)
        for child in Path(f"/proc/{drawing.pid}/task/{drawing.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)
        assert drawing.stderr is not None
        said = drawing.stderr.read().decode()
    assert (drawing.returncode, "Traceback" in said) == (4, False), said
    assert said.endswith("vila2: a process that draws was ended from outside; run the same command again\n")
