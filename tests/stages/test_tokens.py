"""`vila2 shards show --tokens`: the ids and labels of training, made readable."""

import io
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoProcessor

from vila2cli.cli.app import main
from vila2cli.model.chat import Chat
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards import TarWriter, open_source, read_shard
from vila2cli.shards.members import Unusable
from vila2cli.shards.sample import Sample
from vila2cli.stages.tokens import IMAGE, TRAINED, show_tokens
from vila2cli.text.compose import Composition, conversations
from vila2cli.train.data import encode_sample

TALK = b"""{"messages": [{"role": "user", "content": "<image>What\\u001b[31m?\\nSay."},
 {"role": "assistant", "content": "A \\u27e6red\\u27e7 <|im_end|> circle\\u202e"}]}"""


@pytest.fixture
def shard(tmp_path: Path) -> str:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(stream, "PNG")
    with TarWriter(tmp_path / "000000.tar") as tar:
        tar.write_sample("a", {"png": stream.getvalue(), "json": TALK})
        tar.write_sample("b", {"png": stream.getvalue(), "txt": b"a red square"})
        tar.write_sample("c", {"png": stream.getvalue(), "json": b'{"x": 1}'})
    return str(tmp_path / "000000.tar")


@pytest.fixture(scope="module")
def chat(tiny_checkpoint: Path) -> Chat:
    return Chat(AutoProcessor.from_pretrained(tiny_checkpoint))


def samples(shard: str) -> list[Sample]:
    source = open_source([shard])
    return [s for one in source.shards for s in read_shard(one, on_reject=lambda reject: None)]


def test_counts_are_those_of_training(shard: str, chat: Chat) -> None:
    texts = show_tokens(open_source([shard]), chat, load_recipe()).samples
    for text, sample in zip(texts[:2], samples(shard)[:2], strict=True):
        (turns,) = conversations(sample, Composition())
        encoded = encode_sample(sample, chat, turns, 2048)
        trained = sum(label != -100 for label in encoded.labels)
        num_images = encoded.ids.count(chat.image_token_id)
        assert f"{len(encoded.ids)} tokens, {trained} trained, {num_images} of images" in text
        assert f"<image x {num_images}>" in text
    assert "untrainable: it has none of the captions" in texts[2]
    assert show_tokens(open_source([shard]), chat, load_recipe(), 1, start=1).samples == texts[1:2]


@pytest.mark.parametrize(
    ("meta", "hint"),
    [
        (b'{"prompt": "a red cat", "id": "7"}', "; its JSON has 'prompt', .* as the caption with --text$"),
        (b'{"conversations": [], "id": "two words"}', "has 'conversations', which .* webdataset` reads$"),
        (b'{"id": "7", "width": 5}', "no conversation$"),
    ],
)
def test_captions_in_the_json_of_other_tools_are_pointed_at(
    chat: Chat, tmp_path: Path, meta: bytes, hint: str
) -> None:
    with TarWriter(tmp_path / "000000.tar") as tar:
        tar.write_sample("a", {"png": b"0", "json": meta})
    (sample,) = samples(str(tmp_path / "000000.tar"))
    with pytest.raises(Unusable, match=hint):
        encode_sample(sample, chat, (), 2048)


def test_trained_tokens_are_marked_and_special_ones_visible(shard: str, chat: Chat) -> None:
    plain = show_tokens(open_source([shard]), chat, load_recipe()).samples[1]
    assert "⟦a red square<|im_end|>⟧" in plain
    assert "<|im_start|>user\\n" in plain
    coloured = show_tokens(open_source([shard]), chat, load_recipe(), colour=True).samples[1]
    assert f"{TRAINED[0]}a red square<|im_end|>{TRAINED[1]}" in coloured
    assert f"{IMAGE[0]}<image x" in coloured


def test_text_cannot_obey_or_pretend(shard: str, chat: Chat) -> None:
    for colour in (False, True):
        text = show_tokens(open_source([shard]), chat, load_recipe(), 1, colour=colour).samples[0]
        for mark in (*TRAINED, *IMAGE):
            text = text.replace(mark, "")
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "What\\x1b[31m?\\n" in text
        assert "\\u27e6red\\u27e7 < |im_end|> circle\\u202e" in text


def test_the_command_shows_them(
    shard: str, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(shard).parent)
    assert main(["shards", "show", shard, "--tokens", "--model", str(tiny_checkpoint), "-n", "2"]) == 0
    assert "000000/b: " in (text := capsys.readouterr().out)
    assert text.count(" trained, ") == 2
