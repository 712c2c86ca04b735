"""Adapters on the LLM for one phase: trained alone, merged, and kept beside the checkpoint."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor

from vila2cli.errors import ModelError, RecipeError
from vila2cli.model.chat import Chat
from vila2cli.model.freeze import freeze_all_but, part_of
from vila2cli.model.saving import save_checkpoint
from vila2cli.run.progress import Progress
from vila2cli.settings import LoraSettings, TrainSettings
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards.sample import EncodedImage, Sample, Turn
from vila2cli.train.data import TrainSample, encode_sample
from vila2cli.train.loop import fit, parameter_groups
from vila2cli.train.lora import ADAPTER, adapted, adapted_layers
from vila2cli.world.draw import encode_jpeg

peft = pytest.importorskip("peft")
LORA = TrainSettings(
    train=("projector", "lora"),
    learning_rate=1e-2,
    part_learning_rates={"projector": 1e-3},
    batch_size=2,
    epochs=2,
    lora=LoraSettings(rank=4, alpha=8.0),
)


@pytest.fixture
def model(tiny_checkpoint: Path) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(tiny_checkpoint, dtype="float32")


@pytest.fixture(scope="module")
def chat(tiny_checkpoint: Path) -> Chat:
    return Chat(AutoProcessor.from_pretrained(tiny_checkpoint))


@pytest.fixture(scope="module")
def samples(chat: Chat) -> list[TrainSample]:
    from PIL import Image

    picture = EncodedImage(encode_jpeg(Image.new("RGB", (64, 64), "red")), "jpg")
    turns = [[Turn("user", "Describe."), Turn("assistant", text)] for text in ("a red circle", "two stars")]
    return [encode_sample(Sample(key=str(i), images=(picture,)), chat, t, 512) for i, t in enumerate(turns)]


def train(model, chat: Chat, samples, settings: TrainSettings, folder: Path) -> None:
    with adapted(model, settings, folder, seed=3), Progress("test", total=2, unit="steps") as progress:
        fit(model, chat, samples, settings, seed=0, progress=progress)


def logits_of(model, chat: Chat, sample: TrainSample) -> torch.Tensor:
    inputs = {"input_ids": torch.tensor([sample.ids]), **chat.pixel_inputs([sample.decoded()])}
    with torch.inference_mode():
        return model.eval()(**inputs).logits


def test_the_merged_model_is_plain_and_is_base_plus_adapter(
    model, chat: Chat, samples, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in model.named_parameters()}
    train(model, chat, samples, LORA, tmp_path)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    changed = {part_of(name) for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"projector", "llm"}
    kept = ("embed_tokens", "norm", "lm_head", "vision_model")
    assert all(torch.equal(after[n], before[n]) for n in after if any(word in n for word in kept))
    save_checkpoint(model, chat.processor, tmp_path)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="float32")
    torch.testing.assert_close(logits_of(plain, chat, samples[0]), logits_of(model, chat, samples[0]))
    base = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint, dtype="float32")
    base.load_state_dict({n: v for n, v in after.items() if part_of(n) == "projector"}, strict=False)
    other = peft.PeftModel.from_pretrained(base, tmp_path / ADAPTER)
    torch.testing.assert_close(
        logits_of(other, chat, samples[0]), logits_of(plain, chat, samples[0]), rtol=1e-3, atol=1e-4
    )
    assert {path.suffix for path in (tmp_path / ADAPTER).iterdir()} <= {".json", ".safetensors"}
    assert json.loads((tmp_path / ADAPTER / "adapter_config.json").read_text())["r"] == 4


def test_adapters_are_a_part_with_a_rate_of_its_own(model, chat: Chat, tmp_path: Path) -> None:
    with adapted(model, LORA, tmp_path, seed=0):
        counts = freeze_all_but(model, LORA.train)
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert {part_of(name) for name in trained} == {"projector", "lora"}
        layers = adapted_layers_without_adapters(model)
        assert counts["lora"] == sum(4 * (layer.in_features + layer.out_features) for layer in layers)
        rates = {group["lr"]: len(group["params"]) for group in parameter_groups(model, LORA)}
        assert rates == {1e-3: 1, 1e-2: 2 * len(layers)}


def adapted_layers_without_adapters(model) -> list[torch.nn.Linear]:
    return [module.base_layer for module in model.modules() if hasattr(module, "lora_A")]


def test_only_layers_of_the_llm_get_one(model) -> None:
    names = adapted_layers(model, ("q_proj", "down_proj"))
    assert len(names) == 2 * model.config.text_config.num_hidden_layers
    assert {part_of(name) for name in names} == {"llm"}
    with pytest.raises(ModelError, match=r"no layer named fc1; lora\.targets: .*q_proj"):
        adapted_layers(model, ("fc1",))


def test_without_the_part_nothing_happens(model, chat: Chat, samples, tmp_path: Path) -> None:
    twin = copy.deepcopy(model)
    settings = LORA.model_copy(update={"train": ("projector",)})
    train(model, chat, samples, settings, tmp_path)
    with Progress("test", total=2, unit="steps") as progress:
        fit(twin, chat, samples, settings, seed=0, progress=progress)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert not (tmp_path / ADAPTER).exists()


def test_the_same_seed_gives_the_same_adapter(model, chat: Chat, samples, tmp_path: Path) -> None:
    twin = copy.deepcopy(model)
    for number, one in enumerate((model, twin)):
        train(one, chat, samples, LORA, tmp_path / str(number))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_llm_and_lora_together_are_refused() -> None:
    with pytest.raises(RecipeError, match="lora trains adapters in place of the llm"):
        load_recipe(None, ['sft.train=["llm", "lora"]'])


def untied(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint whose head is a matrix of its own."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype="float32")
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    torch.manual_seed(0)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.1)
    save_checkpoint(model, AutoProcessor.from_pretrained(checkpoint), folder)
    return folder


@pytest.mark.parametrize("targets", [("lm_head",), ("q_proj", "lm_head"), ("q_proj", "embed_tokens")])
def test_the_matrix_that_head_and_words_share_gets_no_adapter(
    targets: tuple[str, ...], model, chat: Chat, samples, tmp_path: Path
) -> None:
    settings = LORA.model_copy(update={"lora": LoraSettings(rank=4, targets=targets)})
    before = [name for name, _ in model.named_parameters()]
    with pytest.raises(ModelError, match=r"lora\.targets: .*(lm_head|embed_tokens)"):
        train(model, chat, samples, settings, tmp_path)
    assert [name for name, _ in model.named_parameters()] == before


def test_an_untied_heads_adapter_is_merged_as_it_was_trained(
    tiny_checkpoint: Path, chat: Chat, samples, tmp_path: Path
) -> None:
    folder = untied(tiny_checkpoint, tmp_path / "untied")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
    settings = LORA.model_copy(update={"train": ("lora",), "lora": LoraSettings(rank=4, targets=("lm_head",))})
    with adapted(model, settings, tmp_path, seed=3), Progress("test", total=2, unit="steps") as progress:
        fit(model, chat, samples, settings, seed=0, progress=progress)
        trained = logits_of(model, chat, samples[0])
    save_checkpoint(model, chat.processor, tmp_path / "merged")
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype="float32")
    torch.testing.assert_close(logits_of(merged, chat, samples[0]), trained)
    base = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
    assert not torch.allclose(logits_of(base, chat, samples[0]), trained)
    with safe_open(tmp_path / ADAPTER / "adapter_model.safetensors", framework="numpy") as file:
        assert all(".lora_" in name for name in file.keys()), "no copy of the head itself"  # noqa: SIM118
    with_adapter = peft.PeftModel.from_pretrained(base, tmp_path / ADAPTER)
    torch.testing.assert_close(logits_of(with_adapter, chat, samples[0]), trained)
