"""Joining a tower and an LLM, from the bundled bases and from stock SigLIP and Llama folders."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PretrainedConfig,
    SiglipConfig,
    SiglipModel,
)

from vila2cli.errors import ModelError
from vila2cli.model.build import build, load_tower, outline_llm, resolve_base
from vila2cli.settings import BaseSettings


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole SigLIP model, as google/siglip-so400m-patch14-384 is one, of 27 x 27 patches."""
    folder = tmp_path_factory.mktemp("siglip")
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**vision, "vocab_size": 64, "max_position_embeddings": 16}
    config = SiglipConfig(vision_config={**vision, "image_size": 54, "patch_size": 2}, text_config=text)
    SiglipModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose embedding has no room left for image tokens and is not tied."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = AutoTokenizer.from_pretrained(resolve_base("world:llm"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_checkpoint_loads_in_a_stock_class_with_equal_logits(tiny_checkpoint: Path) -> None:
    model, processor = build(BaseSettings(), seed=0)
    loaded = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint, dtype="float32")
    reloaded_processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    assert type(loaded).__name__ == "Idefics3ForConditionalGeneration"
    assert reloaded_processor.chat_template == processor.chat_template
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(input_ids=ids).logits, loaded.eval()(input_ids=ids).logits)


def test_a_model_of_bfloat16_computes_as_its_checkpoint_does(tmp_path: Path) -> None:
    model, _ = build(BaseSettings(dtype="bfloat16"), seed=0)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="bfloat16")
    ids = torch.arange(5, 305)[None]  # so long that rounded frequencies of positions would show
    with torch.inference_mode():
        assert torch.equal(model.eval()(input_ids=ids).logits, loaded.eval()(input_ids=ids).logits)


def test_only_the_projector_depends_on_the_seed() -> None:
    one, two = (build(BaseSettings(), seed=seed)[0].state_dict() for seed in (0, 1))
    differing = {name for name in one if not torch.equal(one[name], two[name])}
    assert differing == {"model.connector.modality_projection.proj.weight"}


def test_rows_for_new_tokens_are_drawn_by_the_seed(llama: Path) -> None:
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(made))
        model, processor = build(BaseSettings(llm=str(llama)), seed=seed)
        made.append(model.get_input_embeddings().weight.detach())
    num_old = AutoConfig.from_pretrained(llama).vocab_size
    assert num_old < len(processor.tokenizer) <= len(made[0])
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0][:num_old], made[2][:num_old])
    assert not torch.equal(made[0], made[2])


def test_a_siglip_tower_gives_the_same_features_inside(siglip: Path) -> None:
    tower = load_tower(siglip, 0, torch.float32).eval()
    reference = SiglipModel.from_pretrained(siglip).vision_model.eval()
    pixels = torch.randn(1, 3, 54, 54)
    with torch.inference_mode():
        ours = tower(pixel_values=pixels).last_hidden_state
        theirs = reference(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_an_odd_number_of_patches_is_refused_with_a_size_that_fits(siglip: Path, llama: Path) -> None:
    with pytest.raises(ModelError, match=r"image_size = 54.*multiple of 4, for example 52"):
        build(BaseSettings(vision_tower=str(siglip), llm=str(llama)), seed=0)


def test_a_siglip_and_a_llama_are_joined_at_another_resolution(
    siglip: Path, llama: Path, tmp_path: Path
) -> None:
    base = BaseSettings(vision_tower=str(siglip), llm=str(llama), image_size=52)
    model, processor = build(base, seed=0)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert loaded.config.vision_config.image_size == 52
    assert AutoProcessor.from_pretrained(tmp_path).image_seq_len == 13 * 13
    assert loaded.get_input_embeddings().num_embeddings >= len(processor.tokenizer)
    assert not list(tmp_path.glob("*.bin"))
    assert not list(tmp_path.glob("*.pt"))


def test_a_tower_of_another_kind_is_refused(llama: Path) -> None:
    with pytest.raises(ModelError, match=r"llama model.*SigLIP or Idefics3"):
        build(BaseSettings(vision_tower=str(llama)), seed=0)


def test_a_missing_base_names_the_folder() -> None:
    with pytest.raises(ModelError, match="no/such/folder"):
        build(BaseSettings(llm="no/such/folder"), seed=0)


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        (GPTNeoXConfig, {}, r"GPTNeoXForCausalLM cannot be joined.*`model` and `lm_head`"),
        (PhiConfig, {"max_position_embeddings": 64}, "the head of a PhiForCausalLM has a bias"),
    ],
)
@pytest.mark.parametrize("architecture", ["idefics3", "llava"])
def test_an_llm_of_another_layout_is_refused(
    kind: type[PretrainedConfig], options: dict[str, int], reason: str, architecture: str, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve_base("world:llm"))
    config = kind(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        **options,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=reason):
        build(BaseSettings(llm=str(tmp_path), architecture=architecture), seed=0)
    with pytest.raises(ModelError, match=reason):
        outline_llm(tmp_path)
