"""Every architecture that is built: saved, and read in a fresh process with equal logits."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    CLIPVisionModel,
    InternVLVisionConfig,
    InternVLVisionModel,
)

from vila2cli.engine import EngineSettings, Request, open_engine
from vila2cli.errors import ModelError, RecipeError
from vila2cli.model.build import build, join_internvl, resolve_base
from vila2cli.model.chat import Chat
from vila2cli.model.checkpoint import weights_sha256
from vila2cli.model.freeze import freeze_all_but, part_of
from vila2cli.model.saving import rename_for_vllm, save_checkpoint
from vila2cli.model.tensor_files import tensor_places
from vila2cli.model.towers import load_clip_like_tower, load_tower
from vila2cli.settings import BaseSettings
from vila2cli.settings.recipe import load_recipe
from vila2cli.shards.sample import Turn
from vila2cli.train.flops import work_of

FRESH = """
import sys, torch
from transformers import AutoModelForImageTextToText
for folder in sys.argv[1:]:
    inputs = torch.load(folder + "/inputs.pt", weights_only=True)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()
    with torch.inference_mode():
        logits = [model(**own).logits for own in inputs]
    torch.save(logits, folder + "/logits.pt")
    print(type(model).__name__)
"""
try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError, OSError):  # a build for CUDA does not load beside a torch without
    HAS_TORCHVISION = False
else:
    HAS_TORCHVISION = True


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP tower of 8 x 8 patches, with its class token."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    tower = CLIPVisionModel(CLIPVisionConfig(**shape, image_size=64, patch_size=8))
    folder = tmp_path_factory.mktemp("clip")
    tower.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def internvit(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = InternVLVisionModel(InternVLVisionConfig(**shape, image_size=[32, 32], patch_size=[8, 8]))
    folder = tmp_path_factory.mktemp("internvit")
    tower.save_pretrained(folder)
    return str(folder)


def picture(size: tuple[int, int] = (96, 64)) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert("RGB")


def keep_logits(model: Any, inputs: list[dict[str, Any]], folder: Path) -> list[Any]:
    """The logits of the model in memory; its inputs are saved for `logits_in_fresh_process`."""
    torch.save(inputs, folder / "inputs.pt")
    with torch.inference_mode():
        return [model.eval()(**own).logits for own in inputs]


def logits_in_fresh_process(*folders: Path) -> list[tuple[list[Any], str]]:
    """The logits that each folder's model gives in a new process, and the class it loads as."""
    command = [sys.executable, "-c", FRESH, *map(str, folders)]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    logits = [torch.load(folder / "logits.pt", weights_only=True) for folder in folders]
    return list(zip(logits, names, strict=True))


def inputs_of(chat: Chat, *images: Image.Image) -> dict[str, Any]:
    ids = chat.prompt_ids((Turn("user", "What is it?"),), list(images))
    return {"input_ids": torch.tensor([ids]), **chat.pixel_inputs([images])}


BASES = {
    "idefics3": {},
    "llava-linear": {"architecture": "llava", "feature_layer": -1},
    "llava-mlp": {"architecture": "llava", "projector": "mlp"},
    "llava-clip": {"architecture": "llava", "projector": "mlp", "vision_tower": "clip"},
}


def base_of(kind: str, clip: str) -> BaseSettings:
    fields: dict[str, Any] = dict(BASES[kind])
    return BaseSettings(**fields | ({"vision_tower": clip} if fields.get("vision_tower") == "clip" else {}))


def test_checkpoints_reload_in_a_fresh_process_with_equal_logits(clip: str, tmp_path: Path) -> None:
    here, classes = [], []
    for kind in BASES:
        model, processor = build(base_of(kind, clip), seed=0)
        save_checkpoint(model, processor, tmp_path / kind)
        chat = Chat(processor)
        shown = [(), (picture(),), (picture(), picture((50, 90)))]
        here.append(keep_logits(model, [inputs_of(chat, *images) for images in shown], tmp_path / kind))
        classes.append(type(model).__name__)
    there = logits_in_fresh_process(*(tmp_path / kind for kind in BASES))
    assert [name for _, name in there] == classes
    for kind, own, (other, _) in zip(BASES, here, there, strict=True):
        torch.testing.assert_close(other, own, rtol=0, atol=0, msg=lambda text, kind=kind: f"{kind}: {text}")


@pytest.mark.parametrize("kind", BASES)
def test_an_image_stands_as_its_tokens_in_every_place(kind: str, clip: str) -> None:
    _, processor = build(base_of(kind, clip), seed=0)
    chat = Chat(processor)
    turns = (Turn("user", "a <image> b <image>"), Turn("assistant", "c"))
    ids, labels = chat.train_ids(turns, [picture(), picture((64, 64))])
    side = chat.pixel_inputs([[picture()]])["pixel_values"].shape[-1]
    per_image = (side // 8) ** 2 // (4 if kind == "idefics3" else 1)
    assert ids.count(chat.image_token_id) == 2 * per_image
    assert chat.image_token_id not in labels
    short = chat.prompt_ids(turns[:1], [picture(), picture()], expand=False)
    assert short.count(chat.image_token_id) == 2
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}], tokenize=False
    )
    assert text.count("<image>") == 1


@pytest.mark.parametrize("kind", BASES)
def test_parts_are_told_apart_and_idle_parameters_stay_frozen(kind: str, clip: str) -> None:
    model, processor = build(base_of(kind, clip), seed=0)
    names = {
        part: [n for n, _ in model.named_parameters() if part_of(n) == part]
        for part in ("vision_tower", "projector", "llm")
    }
    assert all(names.values())
    assert not any(
        "lm_head" in name or "embed_tokens" in name for name in names["projector"] + names["vision_tower"]
    )
    counts = freeze_all_but(model, ("vision_tower", "projector", "llm"))
    chat = Chat(processor)
    model(**inputs_of(chat, picture())).logits.sum().backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    if kind == "llava-linear":
        assert any("linear_2" in name for name in frozen)
        assert torch.equal(model.model.multi_modal_projector.linear_2.weight, torch.eye(128))
    assert counts["projector"] == sum(
        p.numel() for n, p in model.named_parameters() if n in names["projector"] and p.requires_grad
    )


def test_a_linear_projector_is_one_linear_map(clip: str) -> None:
    projector = build(base_of("llava-linear", clip), seed=0)[0].model.multi_modal_projector
    one, two = torch.randn(2, 5, 128).unbind(0)
    with torch.inference_mode():
        together, apart = projector(one + two), projector(one) + projector(two) - projector(torch.zeros(1, 128))
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_llavas_tower_gives_the_features_of_the_layer_named() -> None:
    folder = resolve_base("world:tower")
    whole = load_tower(folder, 0, torch.float32).eval()
    pixels = torch.randn(1, 3, whole.config.image_size, whole.config.image_size)
    with torch.inference_mode():
        layers = whole(pixel_values=pixels, output_hidden_states=True).hidden_states
        for layer in (-1, -2):
            cut = load_clip_like_tower(folder, 0, layer, torch.float32).eval()
            own = cut(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
            if layer == -2:
                torch.testing.assert_close(own, layers[-2], rtol=1e-4, atol=1e-5)
        normed = cut.post_layernorm(
            load_clip_like_tower(folder, 0, -1, torch.float32)(
                pixel_values=pixels, output_hidden_states=True
            ).hidden_states[-1]
        )
        torch.testing.assert_close(normed, whole(pixel_values=pixels).last_hidden_state, rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="feature_layer = -9: the tower has 3 layers"):
        load_clip_like_tower(folder, 0, -9, torch.float32)


def test_llavas_tensors_have_the_names_that_vllm_looks_for(clip: str, tmp_path: Path) -> None:
    model, processor = build(base_of("llava-mlp", clip), seed=0)
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    processor.save_pretrained(tmp_path)
    rename_for_vllm(tmp_path)
    before = weights_sha256(tmp_path)
    rename_for_vllm(tmp_path)
    assert weights_sha256(tmp_path) == before
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    stored = {name: place.file.name for name, place in tensor_places(tmp_path).items()}
    assert stored == index
    tower = [name for name in stored if "vision_tower." in name]
    assert tower
    assert all("vision_tower.vision_model." in name for name in tower)
    inputs = inputs_of(Chat(processor), picture())
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="float32")
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(**inputs).logits, loaded.eval()(**inputs).logits)


def test_internvl_weights_reload_and_its_processor_asks_for_torchvision(internvit: str, tmp_path: Path) -> None:
    base = BaseSettings(architecture="internvl", projector="mlp", vision_tower=internvit)
    model, tokenizer = join_internvl(base, seed=0)
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    num = model.config.image_seq_length
    assert num == 4
    work = work_of(model, ("projector", "llm"))
    projector = sum(p.numel() for n, p in model.named_parameters() if "projector" in n and p.ndim == 2)
    tower = work.per_image - 4 * projector * num
    assert tower > 0, "images cost the projector's work and the tower's"
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    ids = torch.tensor(
        [[5, tokenizer.start_image_token_id, *[image_id] * num, tokenizer.end_image_token_id, 6]]
    )
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 32, 32)}
    here = keep_logits(model, [inputs], tmp_path / "saved")
    ((there, name),) = logits_in_fresh_process(tmp_path / "saved")
    assert name == "InternVLForConditionalGeneration"
    torch.testing.assert_close(here, there, rtol=0, atol=0)
    if not HAS_TORCHVISION:
        with pytest.raises(ModelError, match=r"internvl.* needs a torchvision") as caught:
            build(base, seed=0)
        assert "\n" not in str(caught.value)
        return
    _, processor = build(base, seed=0)
    expanded = Chat(processor).prompt_ids((Turn("user", "x"),), [picture()])
    assert expanded.count(image_id) == num
    assert Chat(processor).pixel_inputs([[picture()]]).keys() == {"pixel_values"}


def test_a_projector_that_an_architecture_lacks_is_a_recipe_error() -> None:
    with pytest.raises(RecipeError, match="idefics3 has no mlp projector"):
        load_recipe(None, ["base.projector=mlp"])
    with pytest.raises(RecipeError, match="internvl has no linear projector"):
        load_recipe(None, ["base.architecture=internvl"])


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*BASES, "internvl"])
def test_vllm_reads_it_as_it_lies_and_says_the_same(
    kind: str, clip: str, internvit: str, tmp_path: Path
) -> None:
    if kind != "idefics3" and not HAS_TORCHVISION:
        pytest.skip("vLLM imports torchvision for LLaVA and InternVL models")
    internvl = BaseSettings(architecture="internvl", projector="mlp", vision_tower=internvit)
    model, processor = build(internvl if kind == "internvl" else base_of(kind, clip), seed=0)
    save_checkpoint(model, processor, tmp_path)
    turns = (Turn("user", "Describe the image in details."),)
    requests = [
        Request(id=str(i), messages=turns, images=(picture((40 + 8 * i, 64)),), max_new_tokens=16, seed=i)
        for i in range(8)
    ]
    settings = EngineSettings(dtype="float32", batch_size=8)
    if kind == "llava-linear":
        with pytest.raises(ModelError, match="Activation function 'linear' is not supported"):
            open_engine("vllm", tmp_path, settings)
        assert type(open_engine("auto", tmp_path, settings)).__name__ == "HfEngine"
        return
    said = [
        {result.id: result.text for result in open_engine(engine, tmp_path, settings).generate(requests)}
        for engine in ("hf", "vllm")
    ]
    assert said[0] == said[1]
    assert len(said[0]) == 8
