"""`vila2 shards merge --choose`, `pretrain.main.choose` in a recipe, and what their cards say."""

import io
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tiny_vlm import picture
from vila2cli.captioning.layers import check_trained
from vila2cli.cli.app import app
from vila2cli.errors import RecipeError
from vila2cli.run.stages import plan_stages
from vila2cli.settings import Recipe
from vila2cli.settings.recipe import load_recipe, read_stored, resolved_lines
from vila2cli.shards import TarWriter, open_layer, open_source, read_shard
from vila2cli.shards.sample import Annotation, Sample
from vila2cli.text.choose import Choice
from vila2cli.text.compose import composition_of

NUM = 300
CHOOSE = "pretrain.main.choose={original=0.2,recaption=0.5,short=0.3}"


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A shard of tiny pictures with alt-texts under a recaption layer that every tenth has no caption in."""
    stream = io.BytesIO()
    picture(1).save(stream, "JPEG")
    with TarWriter(tmp_path / "base" / "000000.tar") as tar:
        for number in range(NUM):
            tar.write_sample(f"{number:05}", {"jpg": stream.getvalue(), "txt": b"alt"})
    source = open_source([str(tmp_path / "base")])
    writer = open_layer(tmp_path / "recaption", layer="recaption", source=source)
    with writer.shard(source.shards[0]) as out:
        for number, sample in enumerate(out.samples()):
            if number % 10:
                out.annotate(sample, Annotation(layer="recaption", kind="caption", text="new"))
            else:
                out.skip(sample, "not-selected")
    return tmp_path / "recaption"


def texts(folder: Path) -> dict[str, str]:
    samples: list[Sample] = []
    for shard in open_source([str(folder)]).shards:
        samples += read_shard(shard, on_reject=lambda reject: None)
    return {sample.key: sample.text or "" for sample in samples}


def test_merge_draws_the_first_epochs_captions_and_tells_their_shares(layer: Path, tmp_path: Path) -> None:
    words = ["shards", "merge", str(layer), "--choose", "recaption=0.8,original=0.2", "--seed", "7"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "merged")])
    assert done.exit_code == 0, done.output
    merged, choice = texts(tmp_path / "merged"), Choice({"original": 0.2, "recaption": 0.8}, seed=7)
    for key, text in merged.items():
        has = ["original"] if int(key) % 10 == 0 else ["original", "recaption"]
        assert text == {"original": "alt", "recaption": "new"}[str(choice.draw("000000", key, has))]
    counts = Counter(merged.values())
    assert (
        f"recaption {counts['new'] / NUM:.2%} (asked 80.00%); of the samples 30 lack recaption" in done.output
    )
    again = CliRunner().invoke(app, [*words[:-1], "8", "--out", str(tmp_path / "merged")])
    assert "seed was 7, now 8" in str(again.exception)
    card = CliRunner().invoke(app, ["report", "--card", str(tmp_path / "merged")])
    assert card.exit_code == 0, card.output
    row = f"| recaption | 80.00% | {counts['new'] / NUM:.2%} | {counts['new']} | 30 |"
    written = (tmp_path / "merged" / "README.md").read_text()
    assert row in written
    assert "n<1K" in written
    (tmp_path / "merged" / "README.md").unlink()
    several = CliRunner().invoke(app, ["report", "--card", str(tmp_path)])  # a folder of merged folders
    assert several.exit_code == 0, several.output
    assert (tmp_path / "merged" / "README.md").read_text() == written


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("original=0.2,recaptoin=0.8", r"have original, recaption; did you mean recaption\?"),
        ("original=0.2,recaption=0.7", "add up to 0.9"),
        ("original=0,recaption=1", "share of original should be above 0"),
        ("recaption", "write it as original=0.2,recaption=0.8"),
        ("recaption=x", "could not convert"),
    ],
)
def test_odd_shares_are_refused_in_one_line(layer: Path, option: str, why: str) -> None:
    done = CliRunner().invoke(app, ["shards", "merge", str(layer), "--choose", option])
    assert isinstance(done.exception, RecipeError)
    with pytest.raises(RecipeError, match=why):
        raise done.exception
    assert "\n" not in str(done.exception)


def test_a_recipe_draws_or_joins(tmp_path: Path) -> None:
    recipe = load_recipe(None, [CHOOSE, "captions.short.prompts=simple"])
    assert composition_of(recipe.pretrain.main, 0).choose == {"original": 0.2, "recaption": 0.5, "short": 0.3}
    (tmp_path / "recipe.toml").write_text("\n".join(resolved_lines(recipe)))
    stored = read_stored(tmp_path / "recipe.toml")
    assert stored.model_dump() == recipe.model_dump()
    assert "captions" not in recipe.pretrain.main.deciding()
    assert "choose" not in Recipe().pretrain.main.deciding()
    for more, why in {
        "pretrain.main.captions=original": "choose draws one caption of an image, and captions joins several",
        "pretrain.main.shuffle_captions=true": "shuffle_captions orders several",
        "pretrain.main.choose.short=0.1": "add up to 0.8",
        "pretrain.main.choose.short=-0.3": "share of short should be above 0",
    }.items():
        with pytest.raises(RecipeError, match=why):
            load_recipe(None, [CHOOSE, more])
    with pytest.raises(RecipeError, match=r"pretrain\.main\.choose names 'short'"):
        check_trained(load_recipe(None, [CHOOSE]), ())
    with pytest.raises(RecipeError, match=r"captions names 'recaptoin'.*did you mean recaption"):
        check_trained(load_recipe(None, ["pretrain.main.captions=recaptoin"]), ())
    check_trained(load_recipe(None, ['pretrain.main.captions=["recaption@1","old"]']), ["old"])


def test_a_round_writes_all_caption_layers_in_one_stage() -> None:
    sets = ["captions.short.prompts=simple", "captions.tags.max_reject_rate=0.5"]
    stages = {stage.name: stage for stage in plan_stages(load_recipe(None, sets), "round1")}
    stage = stages["round1-recaption"]
    assert stage.words[-6:] == ("--layer", "recaption", "--layer", "short", "--layer", "tags")
    assert [one.name for one in (stage.out, *stage.beside)] == [
        "recaption",
        "recaption-short",
        "recaption-tags",
    ]
    assert stage.rates_beside == (0.05, 0.5)
    plain = {one.name: one for one in plan_stages(load_recipe(None), "round1")}["round1-recaption"]
    assert (plain.words, plain.beside) == (("recaption", "--round", "1"), ())
