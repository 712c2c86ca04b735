"""The command line: what the shell expands, what a dry run says, what exits how."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vila2cli.cli.app import main
from vila2cli.cli.options import spread
from vila2cli.cli.paths import default_out
from vila2cli.run.folder import claim, write_json
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_layer, open_source
from vila2cli.shards.sample import Annotation

ROOT = Path(__file__).parents[1]
VILA2 = [sys.executable, "-m", "vila2cli"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three shards of two samples each, made the current one."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        with TarWriter(tmp_path / "data" / f"{number:03}.tar") as tar:
            for sample in range(2):
                tar.write_sample(f"s{number}-{sample}", {"jpg": b"x", "txt": b"a dog"})
    (tmp_path / "r.toml").write_text('name = "r"\n[data]\npretrain = ["data/*.tar"]\nsft = ["data/*.tar"]\n')
    return tmp_path


def fill_layer(folder: Path, recipe_path: str, *, num_shards: int = 3, reject_rate: float = 0.0) -> None:
    """Caption shards as the recaption stage would, its settings, manifest and summary included."""
    recipe, source = load_recipe(recipe_path), open_source(["data/*.tar"])
    claim(folder, {"settings": recipe.recaption.deciding(), "seed": recipe.seed}, recipe)
    layer = open_layer(folder, layer="recaption", source=source)
    for shard in source.shards[:num_shards]:
        with layer.shard(shard) as writer:
            for sample in writer.samples():
                writer.annotate(
                    sample,
                    Annotation(
                        layer="recaption", kind="caption", text="A dog.", image_sha256=sample.image_sha256
                    ),
                )
    write_json(folder / "summary.json", {**layer.finish().to_json(), "reject_rate": reject_rate, "rejected": 2})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("recaption --shards a b --out x", "recaption --shards a --shards b --out x"),
        ("recaption --out x --shards a b", "recaption --out x --shards a --shards b"),
        ("recaption --shards=a b --model m", "recaption --shards a --shards b --model m"),
        ("judge --layers a b --shards c d", "judge --layers a --layers b --shards c --shards d"),
        ("eval --tasks a --set x=1", "eval --tasks a --set x=1"),
        ("eval --tasks", "eval --tasks"),
        ("eval --tasks --out x", "eval --tasks --out x"),
        ("shards check a b", "shards check a b"),
        ("recaption --shards a -- b", "recaption --shards a -- b"),
    ],
)
def test_words_after_a_list_option_belong_to_it(typed: str, meant: str) -> None:
    assert spread(typed.split()) == meant.split()


def test_the_shell_may_expand_a_glob_to_hundreds_of_words(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(300):
        (tmp_path / "data" / f"{number:06}.tar").touch()
    line = f"{sys.executable} -m vila2cli recaption --model ckpt/r2 --shards data/*.tar --dry-run"
    expanded = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True)
    quoted = subprocess.run(
        ["bash", "-c", line.replace("data/*.tar", "'data/*.tar'")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "shards: 300, data/000000.tar ... data/000299.tar  # --shards" in expanded.stdout
    assert "writes: recaption-r2/SHARD.tar.gz for 300 shards, 0 done already  # default" in expanded.stdout
    assert quoted.stdout == expanded.stdout


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom vila2cli.cli.app import main\nmain(['--help'])\n"
        "heavy = {'torch', 'transformers', 'vllm', 'numpy', 'jinja2', 'rich'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in (
        "recaption",
        "filter",
        "pretrain",
        "sft",
        "specialize",
        "judge",
        "eval",
        "report",
        "shards",
        "world",
    ):
        assert f"  {command} " in done.stdout


@pytest.mark.parametrize(
    "command",
    ["recaption", "filter", "pretrain", "sft", "specialize", "judge", "eval", "report", "world", "world base"]
    + [f"shards {tool}" for tool in ("check", "stats", "show", "merge")],
)
def test_every_help_has_a_line_to_paste(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert f"  vila2 {command}" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["world.toml", "vila2-8b.toml"])
@pytest.mark.parametrize(
    "command",
    [
        "recaption --round 1",
        "filter --round 1",
        "pretrain --round 0",
        "pretrain --round 2",
        "pretrain --round final",
        "sft --round 0",
        "eval --round final",
        "judge --round 2",
        "specialize --name ocr",
        "specialize --name ocr --relabel",
    ],
)
def test_dry_runs_of_the_whole_graph_write_nothing(
    path: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), "--recipe", str(ROOT / "recipes" / path), "--dry-run"]) == 0
    assert "(dry run, nothing is written)" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_where_everything_comes_from(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(
        data / "runs/r/round0/sft/config.json", {"architectures": ["X"], "vision_config": {"image_size": 64}}
    )
    words = "recaption --recipe r.toml --round 1 --set recaption.share=0.5 --worker 1/2 --dry-run"
    assert main(words.split()) == 0
    text = capsys.readouterr().out
    assert "round 1 recaption (dry run" in text
    assert "recaption.share = 0.5  # --set" in text
    assert "recaption.top_p = 1.0  # default" in text
    assert "model: runs/r/round0/sft  # run folder" in text
    assert 'architecture = "X"  # checkpoint' in text
    assert "shards: 3, data/000.tar ... data/002.tar  # recipe" in text
    assert "worker 1/2: 1, data/001.tar" in text
    assert "writes: runs/r/round1/recaption/SHARD.tar.gz for 1 shards" in text


def test_a_dry_run_lists_missing_shards(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            ["sft", "--model", "m", "--recipe", "r.toml", "--shards", "data/000.tar", "none/*.tar", "--dry-run"]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "shards: 1, data/000.tar  # --shards" in text
    assert "missing: none/*.tar" in text


def test_rounds_take_their_inputs_from_the_run_folder(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "r.toml").write_text(
        'name = "r"\nrounds = 2\n[data]\npretrain = "data/*.tar"\n'
        '[specialists.ocr]\ndata = "x.tar"\nprompts = "ocr-v1"\nquestions = "ocr"\n'
    )
    (data / "data" / "task.toml").write_text('answer_type = "short"\n')
    expected = {
        "pretrain --round 0": "shards: 3, data/000.tar ... data/002.tar  # recipe",
        "pretrain --round 1": "missing: runs/r/round1/recaption",
        "pretrain --round final": "missing: runs/r/specialists/ocr/relabel",
        "eval --round final --tasks data": "model: runs/r/final/sft  # run folder",
        "judge --round 2": "model: runs/r/round2/sft  # run folder",
        "specialize --name ocr": "model: runs/r/round2/pretrain  # run folder",
        "specialize --name ocr --relabel": "model: runs/r/specialists/ocr/checkpoint  # run folder",
    }
    for command, line in expected.items():
        assert main([*command.split(), "--recipe", "r.toml", "--dry-run"]) == 0
        assert line in capsys.readouterr().out


def test_a_complete_layer_is_nothing_to_do(data: Path) -> None:
    out = data / "runs" / "r" / "round1" / "recaption"
    fill_layer(out, "r.toml")
    code = (
        "import sys\nfrom vila2cli.cli.app import main\n"
        "rc = main(['recaption', '--recipe', 'r.toml', '--round', '1'])\n"
        "sys.exit(rc or int('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "round 1 recaption: complete, nothing to do (runs/r/round1/recaption)\n"


def test_a_complete_layer_made_with_other_settings_is_refused(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_layer(data / "runs" / "r" / "round1" / "recaption", "r.toml")
    words = "recaption --recipe r.toml --round 1 --set recaption.max_new_tokens=9"
    assert main(words.split()) == 2
    assert "settings.max_new_tokens was 128, now 9" in capsys.readouterr().err
    assert main(["recaption", "--recipe", "r.toml", "--round", "1", "--set", "recaption.batch_size=9"]) == 0


@pytest.mark.parametrize("killed", ["before the summary", "by the budget of rejects"])
def test_a_layer_that_ended_badly_is_looked_at_again(
    data: Path, capsys: pytest.CaptureFixture[str], killed: str
) -> None:
    out = data / "runs" / "r" / "round1" / "recaption"
    fill_layer(out, "r.toml", reject_rate=0.5 if killed == "by the budget of rejects" else 0.0)
    if killed == "before the summary":
        (out / "summary.json").unlink()
    assert main(["recaption", "--recipe", "r.toml", "--round", "1"]) == 5  # the stage starts, without a model
    assert "nothing to do" not in capsys.readouterr().out


def test_an_error_cannot_steer_the_terminal(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "stats", "pipe:printf '\\033[2J' >&2; exit 3"]) == 4
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert r"\x1b[2J" in said


def test_a_worker_whose_part_is_done_has_nothing_to_do(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill_layer(data / "runs" / "r" / "round1" / "recaption", "r.toml", num_shards=1)
    assert main(["recaption", "--recipe", "r.toml", "--round", "1", "--worker", "0/3"]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_a_complete_checkpoint_is_nothing_to_do(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data / "runs" / "r" / "round0" / "sft"
    recipe = load_recipe("r.toml")
    write_json(out / "config.json", {})
    lineage = {"settings": recipe.sft.deciding(), "seed": 0, "parent": {"path": "runs/r/round0/pretrain"}}
    write_json(out / "vila2.json", lineage)
    assert main(["sft", "--recipe", "r.toml", "--round", "0"]) == 0
    assert capsys.readouterr().out == "round 0 sft: complete, nothing to do (runs/r/round0/sft)\n"
    assert main(["sft", "--recipe", "r.toml", "--round", "0", "--set", "sft.epochs=2"]) == 2
    assert "settings.epochs was 1.0, now 2.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("recaption --shards data/*.tar", 2, "no --model was given"),
        ("recaption --shards data/*.tar --set recaption.engine=api", 2, "or set api.model"),
        ("recaption --model m", 2, "data.pretrain is empty in the defaults"),
        ("recaption --round 0 --recipe r.toml", 2, "recaptioning starts at round 1"),
        ("recaption --round x --recipe r.toml", 2, "--round x"),
        ("recaption --round 1 --recipe r.toml --set recaption.prompts=longv1", 2, "unknown prompt 'longv1'"),
        ("recaption --round 1 --recipe r.toml --worker 3/3", 2, "--worker 3/3"),
        ("recaption --round 1 --recipe none.toml", 2, "cannot read the recipe none.toml"),
        ("recaption --round 1 --recipe r.toml --merge --worker 0/2", 2, "--merge joins a whole layer"),
        ("recaption --model none/ckpt --shards data/*.tar", 5, "none/ckpt"),
        ("recaption --model none/ckpt --shards nothing/*.tar", 4, "nothing/*.tar"),
        ("specialize --name ocr --recipe r.toml", 2, "[specialists.ocr]"),
        ("judge --layers a --shards data/*.tar", 2, "two or more --layers"),
        ("judge --recipe r.toml --round 0", 2, "judging compares"),
        ("shards check none.tar", 4, "none.tar"),
        ("report none", 4, "none"),
        ("shards merge data --out r.toml", 4, "r.toml is there and is no folder; move it"),
        ("recaption --model m --shards data --out r.toml", 4, "r.toml is there and is no folder; move it"),
        ("nonsense", 2, "No such command"),
        ("recaption --shard x", 2, "--shards"),
    ],
)
def test_user_errors_are_one_line_with_their_exit_code(
    words: str, code: int, message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    if error.startswith("vila2:"):
        assert error.count("\n") == 1


def test_ctrl_c_is_an_interruption(tmp_path: Path) -> None:
    with subprocess.Popen([*VILA2, "world"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "data").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        last = process.stderr.read().splitlines()[-1]
    assert process.returncode == 75
    assert last == "vila2: stopped by SIGINT; run the same command again to go on"


def test_shard_tools(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill_layer(data / "layer", "r.toml")
    assert main(["shards", "show", "layer", "-n", "1"]) == 0
    assert "A dog." in capsys.readouterr().out
    assert main(["shards", "stats", "layer"]) == 0
    assert "samples: 6" in capsys.readouterr().out
    assert main(["shards", "merge", "layer", "--captions", "recaption", "--out", "merged"]) == 0
    assert "6 of 6 samples" in capsys.readouterr().out
    assert main(["shards", "check", "data", "--fast"]) == 0
    assert main(["shards", "check", "data/000.tar"]) == 4
    printed = capsys.readouterr()
    assert "undecodable: 000/s0-0" in printed.out
    assert "2 problems: 2 undecodable" in printed.err


def test_a_world_can_be_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = ["pretrain", "sft", "specialist", "dev", "eval", "text", "interleaved"]
    sets = [word for size in sizes for word in ("--set", f"world.num_{size}=2")]
    assert main(["world", *sets, "--out", "small"]) == 0
    assert main(["shards", "check", "small/pretrain"]) == 0


@pytest.mark.parametrize(
    ("model", "near", "out"),
    [
        ("ckpt/r2", "data/*.tar", "recaption-r2"),
        ("ckpt/r2", "data/world/pretrain/000.tar", "data/world/recaption-r2"),
        ("runs/world/round0/sft", "data/000.tar", "recaption-round0-sft"),
        ("Qwen/Qwen2-VL-2B", "data/layer", "data/recaption-Qwen2-VL-2B"),
        (None, "data/000.tar", "recaption"),
        (None, "data/*/deep/*.tar", "data/recaption"),
        (None, "{a,b}/c/000.tar", "recaption"),
        (None, "/*.tar", "/recaption"),
    ],
)
def test_default_outputs(model: str | None, near: str, out: str) -> None:
    assert default_out("recaption", model, near) == Path(out)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vila2 0")


def test_merging_by_an_unknown_caption_names_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with TarWriter(tmp_path / "data" / "000000.tar") as tar:
        tar.write_sample("a", {"jpg": b"x", "txt": b"a red circle"})
    words = [
        "shards",
        "merge",
        str(tmp_path / "data"),
        "--captions",
        "recaptoin",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 2
    assert "recaptoin: these shards have original" in capsys.readouterr().err
    assert main([*words[:4], "alt-text", *words[5:]]) == 2
    assert "have original; the alt-text goes by original" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_shows_each_commands_line_whole(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["shards"], ["eval"], ["judge"], ["world"], ["slurm"], ["recipe"]):
        assert main([*words, "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        commands = lines[lines.index("Commands:") + 1 :]
        assert commands
        assert not [line for line in commands if len(line) > 80 or line.endswith("...")]
