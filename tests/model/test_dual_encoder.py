"""Similarity by sentence with tiny CLIP and SigLIP models of random weights."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vila2cli.errors import ModelError
from vila2cli.model.dual_encoder import DualEncoder

LENGTH = {"clip": 12, "siglip": 10}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
CAPTION = "A red circle. A small blue star is at the top left, a green ring and a bar are below it, far away."


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        [CAPTION], trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    )
    start = "<s> $A </s>" if kind == "clip" else "$A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=start, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = ["input_ids", "attention_mask"] if kind == "clip" else ["input_ids"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="</s>",
        model_input_names=names,
    )


def save(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    text = {**TOWER, "vocab_size": 64, "max_position_embeddings": LENGTH[kind], "eos_token_id": 2}
    vision = {**TOWER, "image_size": 32, "patch_size": 8}
    size = {"height": 32, "width": 32}
    tokenizer = tokenizer_of(kind)
    if kind == "clip":
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        images = CLIPImageProcessorPil(size=size, crop_size=size)
        processor = CLIPProcessor(images, tokenizer)
    else:
        text["projection_size"] = 32
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        processor = SiglipProcessor(SiglipImageProcessorPil(size=size), tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp(request.param) / request.param, request.param)


def picture(colour: str) -> Image.Image:
    image = Image.new("RGB", (40, 40), "white")
    image.paste(colour, (5, 5, 25, 25))
    return image


def test_no_sentence_is_cut(folder: Path) -> None:
    encoder = DualEncoder(folder)
    pieces = encoder.pieces(CAPTION)
    assert " ".join(pieces.texts) == CAPTION
    assert pieces.num_split == 1
    assert len(pieces.texts) > 2
    tokenizer = tokenizer_of(folder.name)
    assert all(len(tokenizer(text)["input_ids"]) <= LENGTH[folder.name] for text in pieces.texts)


def test_cosines_are_those_of_the_towers(folder: Path) -> None:
    encoder = DualEncoder(folder)
    images = [picture("red"), picture("blue")]
    texts = [("A red circle.",), ("a green ring", "A small blue star")]
    found = encoder.similarities(images, texts)
    assert [len(cosines) for cosines in found] == [1, 2]
    kind = CLIPModel if folder.name == "clip" else SiglipModel
    net, tokenizer = kind.from_pretrained(folder).eval(), tokenizer_of(folder.name)
    for image, own, cosines in zip(images, texts, found, strict=True):
        pixels = encoder._image_processor(images=[image], return_tensors="pt")["pixel_values"]
        for text, cosine in zip(own, cosines, strict=True):
            padding = {} if folder.name == "clip" else {"padding": "max_length", "max_length": LENGTH["siglip"]}
            tokens = tokenizer(text, return_tensors="pt", **padding)
            with torch.inference_mode():
                output = net(pixel_values=pixels, **tokens)
            expected = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds).item()
            assert cosine == pytest.approx(expected, abs=1e-5)
            assert -1 <= cosine <= 1


def test_many_sentences_are_encoded_a_part_at_a_time(folder: Path) -> None:
    encoder = DualEncoder(folder)
    sizes = []
    encoder._net.text_model.register_forward_pre_hook(
        lambda _, args, tokens: sizes.append(len(tokens["input_ids"])), with_kwargs=True
    )
    words = CAPTION.replace(".", "").replace(",", "").split()
    texts = [f"{words[n % 20]} {words[n // 20]}" for n in range(300)]
    images = [picture("red"), picture("blue")]
    found = encoder.similarities(images, [texts[:290], texts[290:]])
    assert sizes == [256, 44]
    alone = encoder.similarities(images, [[texts[270]], [texts[299]]])
    assert (found[0][270], found[1][9]) == pytest.approx((alone[0][0], alone[1][0]), abs=1e-5)


def test_a_model_of_another_kind_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="CLIP or SigLIP"):
        DualEncoder(tiny_checkpoint)
