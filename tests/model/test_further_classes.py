"""Classes of transformers beyond the zoo's: asked and trained as their own code does it, or told of rightly."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, GenerationConfig
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

from tiny_vlm import TEMPLATE, build_random_vlm
from vila2cli.engine import EngineSettings, Request, open_engine
from vila2cli.errors import ModelError
from vila2cli.model.chat import IGNORE_INDEX, Chat
from vila2cli.model.freeze import parts_of
from vila2cli.model.loading import load_processor
from vila2cli.shards.sample import Turn
from vila2cli.train.job import load_checkpoint
from vila2cli.train.objective import Batcher, Objective, sample_of
from vila2cli.train.survey import Wanted, survey
from zoo_parts import text_fields, vision_fields
from zoo_tokenizers import tokenizer_with

ENDS = "<|endoftext|> <|im_start|> <|im_end|> "
SIZE = {"height": 32, "width": 32}
PICTURES = [
    Image.linear_gradient("L").resize(size).convert("RGB") for size in ((90, 30), (20, 70), (3, 4), (48, 48))
]
QUESTIONS = ("What is shown?", "Describe the image in detail: is there a red circle?")


def saved(net: Any, processor: Any, folder: Path) -> Path:
    """A checkpoint whose weights are spread, so that its texts depend on the picture."""
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.15)
    tokenizer = processor.tokenizer
    net.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def inputs(processor: Any, image: Image.Image, question: str, answer: str = "") -> dict[str, Any]:
    """What the processor itself gives in single precision, as weights are here."""
    messages = [
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    made = processor.apply_chat_template(
        messages if answer else messages[:1],
        add_generation_prompt=not answer,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return {name: value.float() if value.is_floating_point() else value for name, value in made.items()}


def check_answers(folder: Path, net: Any) -> list[str]:
    """Compare the engine's texts, batched, with transformers' own, a picture at a time; returns its notes."""
    torch.set_num_threads(1)
    net, processor = net.float().eval(), AutoProcessor.from_pretrained(folder)
    shown = [(image, QUESTIONS[i % 2]) for i, image in enumerate(PICTURES)]
    texts = []
    for image, question in shown:
        given = inputs(processor, image, question)
        with torch.inference_mode():
            ids = net.generate(**given, max_new_tokens=8, do_sample=False)[0, given["input_ids"].shape[1] :]
        texts.append(processor.tokenizer.decode(ids, skip_special_tokens=True).strip())
    engine = open_engine("hf", folder, EngineSettings(dtype="float32", batch_size=8))
    requests = [
        Request(id=str(i), messages=(Turn("user", question),), images=(image,), max_new_tokens=8)
        for i, (image, question) in enumerate(shown)
    ]
    assert {result.id: result.text for result in engine.generate(requests)} == dict(
        zip(map(str, range(len(shown))), texts, strict=True)
    )
    assert len(set(texts)) > 2
    return engine.notes


def check_loss(folder: Path) -> None:
    """Compare the loss of a padded batch with that of the class's own logits, a sample at a time."""
    model, processor = load_checkpoint(folder)
    chat, said = Chat(processor), ("A red bar.", "It shows two.", "A green ring at the top left.")
    samples = [
        sample_of(chat, str(i), [Turn("user", f"<image>{QUESTIONS[0]}"), Turn("assistant", text)], [image])
        for i, (text, image) in enumerate(zip(said, PICTURES, strict=False))
    ]
    wanted = 0.0
    for text, image, sample in zip(said, PICTURES, samples, strict=False):
        given, labels = inputs(processor, image, QUESTIONS[0], text), torch.tensor(sample.labels)
        assert given["input_ids"][0].tolist() == list(sample.ids)
        with torch.no_grad():
            logits = model(**given).logits[0, :-1]
        wanted += torch.nn.functional.cross_entropy(
            logits, labels[1:], ignore_index=IGNORE_INDEX, reduction="sum"
        ).item()
    assert padded_loss(model, chat, samples) == pytest.approx(wanted, rel=1e-4)


def padded_loss(model: Any, chat: Chat, samples: Sequence[Any]) -> float:
    batcher = Batcher(chat, manner=survey(model, chat, Wanted()))
    loaded = batcher.load([[(sample, 0)] for sample in samples])
    with torch.no_grad():
        loss, _ = Objective(model, None, manner=batcher.manner)(loaded.tensors, ())
    return float(loss)


def test_a_processor_that_makes_texts_of_tensors_alone_is_batched_and_trained(tmp_path: Path) -> None:
    """Ovis2's fails where it is asked for lists of numbers."""
    indicators = "<IMG_START> <IMG_GRID> <IMG_COL> <IMG_ROW> <IMG_END>"
    tokenizer = tokenizer_with(f"{ENDS}<image> <IMG_ATOM> {indicators}", {})
    text = text_fields(tokenizer)
    torch.manual_seed(3)
    net = transformers.Ovis2ForConditionalGeneration(
        transformers.Ovis2Config(
            vision_config=vision_fields(
                hidden_size=32,
                num_attention_heads=2,
                vocab_size=32,
                hidden_stride=2,
                num_visual_indicator_tokens=5,
            ),
            text_config={"model_type": "qwen2", **text},
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
            visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(indicators.split()),
            vocab_size=text["vocab_size"],
            hidden_size=64,
        )
    )
    images = Ovis2ImageProcessorPil(size=SIZE, crop_to_patches=True, max_patches=4)
    processor = transformers.Ovis2Processor(images, tokenizer, chat_template=TEMPLATE, image_seq_length=4)
    folder = saved(net, processor, tmp_path)
    assert not any("one request at a time" in note for note in check_answers(folder, net))
    check_loss(folder)


@pytest.mark.torchvision
def test_pictures_in_half_precision_are_trained_on(tmp_path: Path) -> None:
    """Llama 4's image processor makes bfloat16."""
    marks = "<|image|> <|image_start|> <|image_end|> <|patch|> <|tile_x_separator|> <|tile_y_separator|>"
    tokenizer = tokenizer_with(ENDS + marks, {})
    torch.manual_seed(3)
    net = transformers.Llama4ForConditionalGeneration(
        transformers.Llama4Config(
            vision_config={
                **vision_fields(hidden_size=32, num_attention_heads=2, intermediate_size=128),
                "vision_output_dim": 64,
                "projector_input_dim": 64,
                "projector_output_dim": 64,
            },
            text_config=text_fields(tokenizer, head_dim=32, intermediate_size_mlp=128, num_local_experts=2),
            image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>"),
        )
    )
    processor = transformers.Llama4Processor(
        transformers.Llama4ImageProcessor(size=SIZE, max_patches=4),
        tokenizer,
        patch_size=8,
        chat_template=TEMPLATE.replace("<image>", "<|image|>"),
    )
    check_loss(saved(net, processor, tmp_path))


@pytest.mark.torchvision
def test_of_a_model_that_speaks_too_the_part_that_answers_is_asked_and_trained(tmp_path: Path) -> None:
    """Qwen2.5-Omni as it is released: its thinker's weights and config beside those of its voice."""
    names = {"image": "<|IMAGE|>", "audio": "<|AUDIO|>", "video": "<|VIDEO|>"}
    ends = {
        f"{kind}_{end}_token": f"<|{kind}_{end}|>" for kind in ("vision", "audio") for end in ("bos", "eos")
    }
    named = {f"{kind}_token": token for kind, token in names.items()} | ends
    tokenizer = tokenizer_with(ENDS + " ".join(named.values()), named)
    ids = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
    sides = {"size": {"shortest_edge": 1024, "longest_edge": 4096}, "patch_size": 8}
    torch.manual_seed(3)
    net = transformers.Qwen2_5OmniThinkerForConditionalGeneration(
        transformers.Qwen2_5OmniThinkerConfig(
            audio_config={
                "num_mel_bins": 16,
                "encoder_layers": 1,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 64,
                "d_model": 32,
                "max_source_positions": 100,
                "n_window": 10,
                "output_dim": 64,
            },
            vision_config={
                "depth": 2,
                "hidden_size": 48,
                "intermediate_size": 96,
                "num_heads": 3,
                "patch_size": 8,
                "window_size": 32,
                "fullatt_block_indexes": [1],
                "out_hidden_size": 64,
            },
            text_config=text_fields(tokenizer, rope_parameters=rope),
            vision_start_token_id=ids("<|vision_bos|>"),
            **{f"{kind}_token_index": ids(token) for kind, token in names.items()},
        )
    )
    processor = transformers.Qwen2_5OmniProcessor(
        transformers.Qwen2VLImageProcessor(**sides),
        transformers.Qwen2VLVideoProcessor(**sides),
        transformers.WhisperFeatureExtractor(feature_size=16),
        tokenizer,
        chat_template=TEMPLATE.replace("<image>", "<|vision_bos|><|IMAGE|><|vision_eos|>"),
    )
    folder = saved(net, processor, tmp_path)
    weights = {f"thinker.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    weights["talker.model.norm.weight"] = torch.ones(8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "qwen2_5_omni", "thinker_config": json.loads((folder / "config.json").read_text())}
    (folder / "config.json").write_text(json.dumps(config))
    check_answers(folder, net)
    check_loss(folder)


def test_the_parts_of_a_model_that_holds_its_tower_inside_its_llm() -> None:
    """Phi-4 has it beside the layers, with what brings its features to them."""
    sides = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    audio = {"ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32, "nemo_conv_channels": 8}
    config = transformers.Phi4MultimodalConfig(
        **sides,
        num_key_value_heads=1,
        num_hidden_layers=1,
        vocab_size=64,
        pad_token_id=0,
        vision_config={**sides, "num_hidden_layers": 1},
        audio_config={**sides, **audio, "num_blocks": 1},
    )
    with torch.device("meta"):
        parts = parts_of(transformers.Phi4MultimodalForCausalLM(config))
    image = "model.embed_tokens_extend.image_embed"
    for name, part in parts.items():
        if name.startswith(f"{image}.img_processor"):
            assert part == "vision_tower", name
        else:
            assert part == ("projector" if "embed_tokens_extend" in name else "llm"), name
    assert set(parts.values()) == {"llm", "projector", "vision_tower"}


def test_of_a_missing_template_only_those_are_told_who_could_use_one(tmp_path: Path) -> None:
    folder = build_random_vlm(tmp_path / "vlm")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(
        ModelError, match=r"add chat_template.jinja to its folder, with <image> where a picture"
    ):
        Chat(load_processor(folder))
    tokenizer = tokenizer_with(f"{ENDS}<image>", {"image_token": "<image>"})
    images: Any = BlipImageProcessorPil(size=SIZE)
    in_front = transformers.Blip2Processor(images, tokenizer, num_query_tokens=4)
    for processor in (in_front, transformers.GitProcessor(images, tokenizer_with(ENDS, {}))):
        with pytest.raises(
            ModelError, match=r"^\w+Processor has no chat template, and makes prompts .* cannot be"
        ):
            Chat(processor)


def test_an_encoder_decoder_is_refused_as_such_by_trainings_too(tmp_path: Path) -> None:
    transformers.Florence2Config().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(ModelError, match=r"^Florence2\w+ is not supported: it is an encoder-decoder"):
        load_checkpoint(tmp_path)


def test_a_class_that_answers_no_prompts_is_named(tmp_path: Path) -> None:
    transformers.CLIPConfig().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights at all")
    for load in (load_checkpoint, lambda folder: open_engine("hf", folder, EngineSettings(dtype="float32"))):
        with pytest.raises(
            ModelError, match=r"^CLIPConfig is not supported: transformers has no class for clip"
        ):
            load(tmp_path)
