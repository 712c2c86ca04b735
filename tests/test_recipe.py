"""Recipes: every problem in one error, origins, resolved settings that load again."""

import subprocess
import sys
from pathlib import Path

import pydantic
import pytest

from vila2cli.errors import RecipeError
from vila2cli.run.changes import difference
from vila2cli.settings import Recipe, describe
from vila2cli.settings.recipe import (
    flatten,
    key_lines,
    load_recipe,
    nearest_key,
    read_stored,
    resolved_lines,
)
from vila2cli.text.prompts import PROMPTS, QUESTIONS

REPO = Path(__file__).parents[1]
RECIPES = sorted((REPO / "recipes").glob("**/*.toml"))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.toml"
    path.write_text(text)
    return path


def problems(path: Path | None, *sets: str) -> str:
    with pytest.raises(RecipeError) as error:
        load_recipe(path, sets)
    return str(error.value)


def test_defaults_are_a_recipe() -> None:
    recipe = load_recipe()
    assert recipe.recaption.prompts == ("long-v1", "long-v2", "long-v3")
    assert recipe.pretrain.align.train == ("projector",)
    assert recipe.pretrain.align.learning_rate == 1e-3
    assert recipe.sft.train == ("vision_tower", "projector", "llm")
    assert recipe.run_dir == Path("runs/run")
    assert set(recipe.origins.values()) == {"default"}


def test_all_problems_come_at_once_with_lines_and_nearest_keys(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'name = "x"\n[recaption]\nshar = 0.5\nbatch_size = "12"\n[pretrain.align]\ntrain = ["projectr"]\n'
        'leaning_rate = 1\n[specialists.ocr]\nprompts = "ocr-v1"\nquestions = "ocr"\n[sfft]\nepochs = 1\n',
    )
    text = problems(path, "recaption.topp=1", "nothing")
    assert text.startswith("8 problems in the recipe:")
    assert f"{path}:3: unknown setting recaption.shar; did you mean recaption.share?" in text
    assert f"{path}:4: recaption.batch_size = '12': input should be a valid integer" in text
    assert f"{path}:6: pretrain.align.train = 'projectr'" in text
    assert f"{path}:7: unknown setting pretrain.align.leaning_rate" in text
    assert "did you mean pretrain.align.learning_rate?" in text
    assert f"{path}:8: specialists.ocr.data is missing" in text
    assert f"{path}:11: unknown setting sfft; did you mean sft?" in text
    assert "--set recaption.topp=1: unknown setting recaption.topp; did you mean recaption.top_p?" in text
    assert "--set nothing: write it as KEY=VALUE" in text


def test_one_problem_is_one_line(tmp_path: Path) -> None:
    text = problems(write(tmp_path, "[sft]\nepochs = 0\n"))
    assert "\n" not in text
    assert text.endswith(":2: sft.epochs = 0: input should be greater than 0")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("seed = true", "valid integer"),
        ("seed = 1.5", "valid integer"),
        ("recaption.temperature = nan", "finite"),
        ("recaption.share = 0", "greater than 0"),
        ("recaption.prompts = []", "at least 1"),
        ('name = "../x"', "only letters, digits, ., _ and -"),
        ('name = "my run"', "only letters, digits, ., _ and -"),
        ("judges.GPT = {}", "begin with a small letter"),
        ("specialists.my_ocr = {}", "begin with a small letter"),
        ('slurm.setup = "a\\nb"', "one line"),
        ('recaption.engine = "vlm"', "'auto', 'vllm', 'hf' or 'api'"),
        ("slurm.mem = [1]", "slurm.mem"),
        ('api.base_url = "127.0.0.1:8000/v1"', "should be a web address"),
        ('api.base_url = "htt p://x/v1"', "should be a web address"),
        ('api.base_url = "http://x:99999/v1"', "should be a web address"),
        ('api.base_url = "file:///x"', "should be a web address"),
        ('judges.gpt.api.base_url = "http://"', "should be a web address"),
        ("sft = 3", "sft = 3"),
        ("specialists.relabel = {}", "name of a stage"),
        ("specialists.sft = {}", "name of a stage"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, line: str, what: str) -> None:
    text = problems(write(tmp_path, line + "\n"))
    assert what in text
    assert "r.toml:1: " in text


def test_a_dropout_of_a_caption_that_is_not_there_is_refused(tmp_path: Path) -> None:
    lines = '[pretrain.main]\ncaptions = ["original", "recaption"]\ncaption_dropout = {orignal = 0.5}\n'
    text = problems(write(tmp_path, lines))
    assert "r.toml:3: pretrain.main.caption_dropout = {'orignal': 0.5}: orignal is none of the captions" in text
    load_recipe(None, ["pretrain.main.caption_dropout={original=0.5}"])


def test_broken_files_are_one_clear_line(tmp_path: Path) -> None:
    assert "r.toml:2: not valid TOML" in problems(write(tmp_path, 'name = "x"\nseed 3\n'))
    assert "No such file" in problems(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    assert "not UTF-8" in problems(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 5000 + "]" * 5000,
        "x = " + "{a=" * 300 + "1" + "}" * 300,
        ".".join(["a"] * 5000) + " = 1",
        "[" + ".".join(["a"] * 900) + "]\nb = 1",
        "seed = " + "9" * 5000,
        "seed = " + "9" * 400,
        "a" * 100_000 + " = 1",
        "[sft]\nepochs = 1e300",
    ],
    ids=["lists", "tables", "dots", "header", "digits", "no-int64", "key", "epochs"],
)
def test_a_recipe_that_no_one_wrote_by_hand_is_one_short_line(tmp_path: Path, text: str) -> None:
    said = problems(write(tmp_path, text))
    assert "r.toml" in said
    assert "\n" not in said
    assert len(said) < 600


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('api.base_url = "bob:hunter2SECRET@host/v1"', "should be a web address"),
        ('api.base_url = "htt p://bob:hunter2SECRET@host/v1"', "should be a web address"),
        ('api.key_env = "sk-hunter2SECRET0123"', "should be the name of an environment variable"),
    ],
)
def test_a_secret_in_a_setting_it_does_not_fit_is_not_shown(tmp_path: Path, line: str, what: str) -> None:
    for said in (problems(write(tmp_path, line)), problems(None, line.replace(" = ", "=").replace('"', ""))):
        assert what in said
        assert "SECRET" not in said


@pytest.mark.parametrize("value", ["[" * 3000 + "]" * 3000, "9" * 5000])
def test_so_is_a_setting(value: str) -> None:
    said = problems(None, f"sft.epochs={value}")
    assert said.startswith("--set")
    assert len(said) < 600


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbfseed = 3\n")
    assert load_recipe(tmp_path / "bom.toml").seed == 3


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("sft.epochs=2", "sft.epochs", 2.0),
        ("recaption.prompts=long-v1", "recaption.prompts", ["long-v1"]),
        ('recaption.prompts=["a", "b"]', "recaption.prompts", ["a", "b"]),
        ("data.sft=data/a b=c/*.tar", "data.sft", ["data/a b=c/*.tar"]),
        ("name=123", "name", "123"),
        ('name="x"', "name", "x"),
        ("slurm.time=1:00:00", "slurm.time", "1:00:00"),
        ("pretrain.main.cache_features=true", "pretrain.main.cache_features", True),
        ("sft={epochs = 3}", "sft.epochs", 3.0),
    ],
)
def test_set_values_are_toml_or_text(text: str, key: str, value: object) -> None:
    recipe = load_recipe(None, [text])
    assert flatten(recipe.model_dump(mode="json"))[key] == value
    assert recipe.origins[key] == "--set"


@pytest.mark.parametrize("text", ["a", "=1", "a b=1", "name.b=1", "name=1\nseed=2"])
def test_odd_sets_are_refused(text: str) -> None:
    assert "--set" in problems(None, text)


def test_origins_follow_the_last_word(tmp_path: Path) -> None:
    path = write(tmp_path, "seed = 3\n[sft]\nepochs = 2.0\nbatch_size = 8\n")
    recipe = load_recipe(path, ["sft.epochs=3"])
    assert recipe.sft.epochs == 3.0
    origins = {key: recipe.origins[key] for key in ("seed", "sft.epochs", "sft.batch_size", "sft.train")}
    assert origins == {
        "seed": "recipe",
        "sft.epochs": "--set",
        "sft.batch_size": "recipe",
        "sft.train": "default",
    }
    assert recipe.path == path
    assert load_recipe(path, ["sft={epochs = 3}"]).origins["sft.batch_size"] == "default"


def test_settings_are_frozen() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        load_recipe().sft.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_load_resolve_and_name_known_prompts(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    again = load_recipe(write(tmp_path, "\n".join(resolved_lines(recipe))))
    assert again.model_dump() == recipe.model_dump()
    prompts = [*recipe.recaption.prompts, *(p for s in recipe.specialists.values() for p in s.prompts)]
    assert set(prompts) <= set(PROMPTS)
    assert {s.questions for s in recipe.specialists.values()} <= set(QUESTIONS)


ABLATIONS = {
    "frozen-llm": {"pretrain.main.train"},
    "mlp-projector": {"base.projector", "eval.engine"},
    "pairs": {"data.interleaved"},
    "interleaved": {"data.pretrain", "data.interleaved"},
    "no-text": {"data.text"},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_what_it_is_named_for_and_nothing_else(name: str) -> None:
    folder = Path(__file__).parents[1] / "recipes" / "vila-ablations"
    assert {path.stem for path in folder.glob("*.toml")} == {"vila", *ABLATIONS}
    whole, other = (flatten(load_recipe(folder / f"{n}.toml").model_dump()) for n in ("vila", name))
    assert {key for key in whole if whole[key] != other.get(key)} == {"name", *ABLATIONS[name]}


def test_vila2_8b_has_the_papers_settings() -> None:
    recipe = load_recipe(Path(__file__).parents[1] / "recipes" / "vila2-8b.toml")
    stages = (recipe.pretrain.align, recipe.pretrain.main, recipe.sft)
    assert [stage.learning_rate for stage in stages] == [1e-3, 5e-5, 2e-5]
    assert {stage.batch_size for stage in stages} == {1024}
    assert {stage.warmup_ratio for stage in stages} == {0.03}
    assert {stage.epochs for stage in stages} == {1.0}
    assert recipe.recaption.share == 0.5
    side = recipe.base.image_size // 14
    assert recipe.base.image_size % 28 == 0
    assert (side // 2) ** 2 == 169


def test_points_has_the_papers_settings() -> None:
    recipe = load_recipe(Path(__file__).parents[1] / "recipes" / "points.toml")
    tiles = recipe.base.tiles
    assert (tiles.method, tiles.max, tiles.thumbnail, tiles.overlap) == ("catty", 8, True, "even")
    assert recipe.base.image_size == 336
    tokens = (336 // 14 // 2) ** 2
    assert (tiles.max + 1) * (tokens + 3) < min(recipe.pretrain.main.max_length, recipe.sft.max_length) / 2
    assert (recipe.filter.scores, recipe.filter.keep_share) == (("perplexity",), 0.2)
    assert recipe.soup.method == "greedy"
    assert {stage.learning_rate for stage in (recipe.pretrain.main, recipe.sft)} == {2e-5}
    assert {stage.warmup_ratio for stage in (recipe.pretrain.main, recipe.sft)} == {0.03}
    assert "vision_tower" not in recipe.pretrain.main.train + recipe.sft.train


def test_resolved_lines_keep_odd_keys_and_strings(tmp_path: Path) -> None:
    path = write(tmp_path, '[prompts]\n"my own" = "a\\u007f\\"b\\\\"\n')
    recipe = load_recipe(path)
    again = load_recipe(write(tmp_path, "\n".join(resolved_lines(recipe))))
    assert again.prompts == recipe.prompts == {"my own": 'a\x7f"b\\'}
    assert resolved_lines(recipe, ["prompts"])[0].endswith("# recipe")


def test_sections_of_resolved_lines() -> None:
    lines = resolved_lines(load_recipe(), ["seed", "pretrain.align"])
    assert lines[0] == "seed = 0  # default"
    assert all(line.startswith("pretrain.align.") for line in lines[1:])


def test_every_key_is_described() -> None:
    rows = {key: (kind, default, doc) for key, kind, default, doc in describe()}
    assert set(flatten(load_recipe().model_dump(mode="json"))) <= set(rows)
    assert all(doc for _, _, doc in rows.values())
    assert rows["recaption.engine"][0] == '"auto" | "vllm" | "hf" | "api"'
    assert rows["data.sft"][0] == "list of string"
    assert rows["specialists.NAME.data"][1] == "required"
    assert rows["slurm.options.KEY"][0].startswith("string")


def test_deciding_leaves_out_what_only_changes_speed() -> None:
    values = load_recipe().pretrain.deciding()
    assert "micro_batch_size" not in values["main"]
    assert values["align"]["train"] == ["projector"]
    assert "engine" not in load_recipe().recaption.deciding()


def test_lines_of_keys() -> None:
    text = 'a = """\nb = 1\n"""\n[t."x.y"] # note\nc.d = 1\n  "e" = [\n  1,\n]\n'
    assert key_lines(text) == {"a": 1, "t.x.y": 4, "t.x.y.c.d": 5, "t.x.y.e": 6}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("recaption.shar", "recaption.share"),
        ("sft.captions", "pretrain.align.captions"),
        ("specialists.ocr.prompt", "specialists.ocr.prompts"),
        ("pretrain.learning_rate", "pretrain.align.learning_rate"),
        ("zzz", None),
    ],
)
def test_nearest_key(typed: str, meant: str | None) -> None:
    assert nearest_key(typed) == meant


def test_a_recipe_loads_without_torch() -> None:
    code = (
        "import sys; from vila2cli.settings.recipe import load_recipe; load_recipe(); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'PIL')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_fields_are_typed_settings() -> None:
    assert Recipe.model_config["frozen"]
    assert Recipe.model_config["extra"] == "forbid"


@pytest.mark.parametrize(
    ("lines", "key", "way_out"),
    [
        ("[pretrain.align]\ntext_share = 0.1", "pretrain.align.text_share", "max_samples or epochs"),
        ("[pretrain.align.mixture.pretrain]\nepochs = 2", "pretrain.align.mixture", "max_samples or epochs"),
        ('[pretrain.align]\nanswers = "apart"', "pretrain.align.answers", "in pretrain.main"),
        ("[specialists.ocr]\ntext_share = 0.1", "specialists.ocr.text_share", "max_samples or epochs"),
        ("[specialists.ocr.mixture.x]\nweight = 1", "specialists.ocr.mixture", "max_samples or epochs"),
    ],
)
def test_a_setting_that_was_removed_is_named_with_a_way_out(
    tmp_path: Path, lines: str, key: str, way_out: str
) -> None:
    path = write(tmp_path, lines + "\n")
    text = problems(path)
    (line,) = [line for line in text.splitlines() if "is no longer a setting" in line]
    assert f"{key} is no longer a setting: " in line
    assert f"{path}:" in line
    assert way_out in line


def test_a_stage_takes_no_nodes_or_array_that_it_cannot_use(tmp_path: Path) -> None:
    assert "leave out slurm.stages.eval.nodes" in problems(None, "slurm.stages.eval.nodes=2")
    assert "leave out slurm.stages.sft.array" in problems(None, "slurm.stages.sft.array=2")
    assert "leave out slurm.stages.world.gpus" in problems(None, "slurm.stages.world.gpus=1")
    recipe = load_recipe(None, ["slurm.stages.sft.nodes=2", "slurm.stages.eval.array=2"])
    stored = tmp_path / "recipe.toml"
    stored.write_text("\n".join(resolved_lines(recipe)))
    assert load_recipe(stored).model_dump() == recipe.model_dump()


def test_a_recipe_stored_by_an_earlier_version_is_read(tmp_path: Path) -> None:
    recipe = load_recipe(REPO / "recipes/world.toml")
    path = tmp_path / "recipe.toml"
    old = [
        "pretrain.align.text_share = 0.0",
        'pretrain.align.answers = "appended"',
        "specialists.ocr.text_share = 0.0",
        "pretrain.align.mixture.pretrain.weight = 0.0",
    ]
    path.write_text("\n".join([*resolved_lines(recipe), *old]))
    assert read_stored(path).model_dump() == recipe.model_dump()
    path.write_text("\n".join([*resolved_lines(recipe), "recaption.invented = 1"]))
    with pytest.raises(RecipeError, match="does not know; vila2 of another version reads it"):
        read_stored(path)
    (tmp_path / "manifest.json").write_text('{"vila2": "9.9.9"}')
    with pytest.raises(RecipeError, match=r"vila2 9\.9\.9 reads it") as error:
        read_stored(path)
    assert "\n" not in str(error.value)


def test_what_an_earlier_version_recorded_without_effect_is_no_difference() -> None:
    now = {"settings": {"align": {"epochs": 1.0}}, "seed": 0}
    then = {
        "settings": {"align": {"epochs": 1.0, "text_share": 0.0, "answers": "apart", "mixture": {}}},
        "seed": 0,
    }
    assert difference(then, now) == ""
    then["settings"]["align"]["mixture"] = {"pretrain": {"epochs": 0.5}}
    assert "settings.align.mixture.pretrain.epochs was 0.5, now absent" in difference(then, now)
    assert "text_share was 0.1, now 0.0" in difference(
        {"settings": {"text_share": 0.1}}, {"settings": {"text_share": 0.0}}
    )
