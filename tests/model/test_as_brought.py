"""Checkpoints as people bring them: older layouts of their folders, and files beside what is read."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_vlm import build_random_vlm, picture
from vila2cli.ask.preflight import checked_inputs
from vila2cli.engine import EngineSettings, Request, open_engine
from vila2cli.errors import ModelError, UnaskableError
from vila2cli.model.build import load_llm, resolve_base
from vila2cli.model.chat import Chat
from vila2cli.model.likeness import check_alike
from vila2cli.model.loading import architecture, load_processor
from vila2cli.settings import AskedSettings
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards.sample import Turn
from vila2cli.train.job import load_checkpoint

Change = Callable[[dict[str, Any]], Any]
ASKED = (Turn("user", "What is shown?"),)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_random_vlm(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture
def brought(plain: Path, tmp_path: Path) -> Path:
    shutil.copytree(plain, tmp_path / "brought")
    return tmp_path / "brought"


def change(path: Path, how: Change) -> None:
    table = json.loads(path.read_text()) if path.is_file() else {}
    how(table)
    path.write_text(json.dumps(table))


def read(folder: Path) -> None:
    """What an engine reads before it loads weights."""
    architecture(folder)
    load_processor(folder)


def texts(folder: Path) -> list[str]:
    engine = open_engine("hf", folder, EngineSettings(dtype="float32"))
    prompts = [ASKED, (Turn("user", "What is shown in the picture at the top?"),)]
    requests = [
        Request(id=str(i), messages=turns, images=(picture(i),), max_new_tokens=8)
        for i, turns in enumerate(prompts)
    ]
    return [result.text for result in sorted(engine.generate(requests), key=lambda one: one.id)]


def move_template(folder: Path, place: Callable[[str], Any]) -> None:
    """Put the chat template into tokenizer_config.json, as `place` has it."""
    file = folder / "chat_template.jinja"
    template = place(file.read_text())
    file.unlink()
    change(folder / "tokenizer_config.json", lambda table: table.update(chat_template=template))


@pytest.mark.parametrize("kind", ["AutoConfig", "AutoProcessor", "AutoTokenizer"])
def test_its_own_code_is_never_run_nor_asked_about(
    brought: Path, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "has run"
    (brought / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
    file, names = {
        "AutoConfig": ("config.json", {"model_type": "own_vlm"}),
        "AutoProcessor": ("processor_config.json", {"processor_class": "Own"}),
        "AutoTokenizer": ("tokenizer_config.json", {"tokenizer_class": "Own"}),
    }[kind]
    code: Any = ["own.Own", "own.Own"] if kind == "AutoTokenizer" else "own.Own"
    change(brought / file, lambda table: table.update(names, auto_map={kind: code}))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    with pytest.raises(ModelError, match=r"code of its own \(trust_remote_code\), which is never run"):
        read(brought)
    assert not mark.exists()


def test_a_chat_template_is_taken_from_the_tokenizer_where_the_processor_has_none(
    plain: Path, brought: Path, tmp_path: Path
) -> None:
    move_template(brought, lambda template: [{"name": "default", "template": template}])
    theirs, ours = Chat(load_processor(plain)), Chat(load_processor(brought))
    assert ours.prompt_ids(ASKED, [picture(0)]) == theirs.prompt_ids(ASKED, [picture(0)])
    check_alike([plain, brought])
    ours.processor.save_pretrained(tmp_path / "again")
    again = Chat(load_processor(tmp_path / "again"))
    assert again.prompt_ids(ASKED, [picture(0)]) == theirs.prompt_ids(ASKED, [picture(0)])


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
def test_a_tokenizer_of_sentencepiece_says_which_packages_read_it(brought: Path, tmp_path: Path) -> None:
    llm = shutil.copytree(resolve_base("world:llm"), tmp_path / "llm")
    for folder in (brought, llm):
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
        change(folder / "tokenizer_config.json", lambda table: table.update(tokenizer_class="LlamaTokenizer"))
    needs = r"needs sentencepiece and protobuf.*: pip install 'vila2cli\[models\]'$"
    with pytest.raises(ModelError, match=f"the processor of .* {needs}"):
        load_processor(brought)
    with pytest.raises(ModelError, match=f"its tokenizer {needs}"):
        load_llm(llm, torch.float32)


def test_a_tokenizer_without_a_padding_token_is_none_the_less_asked(plain: Path, brought: Path) -> None:
    change(brought / "tokenizer_config.json", lambda table: table.pop("pad_token"))
    processor = load_processor(brought)
    assert processor.tokenizer.pad_token is None

    assert texts(brought) == texts(plain)
    Chat(processor).check()
    assert processor.tokenizer.pad_token is None, "what is trained would else be saved with another"


def test_a_quantized_checkpoint_is_not_trained(brought: Path) -> None:
    block = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}
    change(brought / "config.json", lambda table: table.update(quantization_config=block))
    with pytest.raises(ModelError, match=r"is quantized .* can be asked but not trained"):
        load_checkpoint(brought)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # transformers leaves the file open
def test_of_several_chat_templates_the_one_named_default_counts(brought: Path) -> None:
    other = "{{ other_argument }}"
    (brought / "additional_chat_templates").mkdir()
    (brought / "additional_chat_templates" / "rag.jinja").write_text(other)
    processor = load_processor(brought)
    assert set(processor.chat_template) == {"default", "rag"}
    Chat(processor).check()
    with pytest.raises(UnaskableError, match="no argument 'other_argument'"):
        Chat(processor, {"other_argument": 1})
    (brought / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"several chat templates \(rag\), and none is named default"):
        Chat(load_processor(brought))


def test_what_a_generation_config_says_of_greedy_answers_is_named_as_not_heeded(brought: Path) -> None:
    said = {"repetition_penalty": 1.3, "suppress_tokens": [9], "num_beams": 1, "do_sample": True, "top_k": 5}
    change(brought / "generation_config.json", lambda table: table.update(said))

    def notes(**asked: Any) -> list[str]:
        engine = open_engine("hf", brought, EngineSettings(dtype="float32", asked=AskedSettings(**asked)))
        return [note for note in engine.notes if "generation_config" in note]

    (note,) = notes()
    assert note.startswith("not heeded of generation_config.json")
    assert note.endswith(
        "repetition_penalty, suppress_tokens; repetition_penalty can be set in the stage's table"
    )
    assert notes(repetition_penalty=1.3)[0].endswith("drawn: suppress_tokens")
    change(brought / "generation_config.json", lambda table: table.pop("suppress_tokens"))
    assert not notes(repetition_penalty=1.3)
    engine = open_engine("hf", brought, EngineSettings(dtype="float32"))
    request = Request(id="0", messages=ASKED, images=(picture(0),), max_new_tokens=4)
    assert [result.error for result in engine.generate([request])] == [None]


@pytest.mark.parametrize("stated", [True, False])
def test_weights_of_eight_bits_are_computed_with_in_single_precision(brought: Path, stated: bool) -> None:
    """Plain numbers of 8 bits, which are those of a float32 checkpoint, rounded."""
    weights = load_file(brought / "model.safetensors")
    rounded = {name: value.to(torch.float8_e4m3fn) for name, value in weights.items()}
    save_file(
        {name: value.float() for name, value in rounded.items()},
        brought / "model.safetensors",
        {"format": "pt"},
    )
    expected = texts(brought)
    save_file(rounded, brought / "model.safetensors", {"format": "pt"})
    dtype = "float8_e4m3fn" if stated else None
    change(brought / "config.json", lambda table: table.update(dtype=dtype))
    change(brought / "config.json", lambda table: table["text_config"].update(dtype=dtype))
    assert "inputs are those of its own" in checked_inputs(load_recipe(None, []), str(brought))
    assert texts(brought) == expected
    assert load_checkpoint(brought)[0].dtype == torch.float32
