"""A CLIP or SigLIP model: how well each sentence of a caption fits its image.

Their text towers take 77 or 64 tokens and cut the rest off without a word, which for long captions
is most of it; so captions are scored by sentence, and a sentence too long is split further.

Shapes: N images, T texts, D channels of the joint space.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModel

from vila2cli.errors import ModelError
from vila2cli.model.checkpoint import resolve_model, weights_sha256
from vila2cli.model.loading import load_processor, load_whole
from vila2cli.text.sentences import Pieces, sentence_pieces

_TEXT_BATCH = 256
"""Texts in one pass: long captions have dozens of sentences each."""


class DualEncoder:
    """A two-tower checkpoint of transformers, loaded in float32 (bfloat16 on an accelerator)."""

    def __init__(self, model: str | Path) -> None:
        folder = resolve_model(model)
        self.model_sha256 = weights_sha256(folder)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        net: Any = load_whole(AutoModel, folder, what="as a CLIP or SigLIP model", dtype=dtype)
        processor = load_processor(folder)
        if not (hasattr(net, "get_image_features") and hasattr(net, "get_text_features")):
            raise ModelError(f"{folder} has no towers for image and text; give a CLIP or SigLIP model")
        self._net: Any = net.to(self.device).eval()
        self._tokenizer, self._image_processor = processor.tokenizer, processor.image_processor
        self.max_tokens = int(net.config.text_config.max_position_embeddings)
        # SigLIP was trained on texts padded to the full length, and looks at the last place.
        is_siglip = str(net.config.model_type).startswith("siglip")
        whole = {"padding": "max_length", "max_length": self.max_tokens}
        self._padding = whole if is_siglip else {"padding": True}

    def pieces(self, caption: str) -> Pieces:
        """The sentences of a caption, each no longer than the text tower takes."""
        return sentence_pieces(caption, lambda text: len(self._tokenizer(text)["input_ids"]) <= self.max_tokens)

    @torch.inference_mode()
    def similarities(
        self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]]
    ) -> list[tuple[float, ...]]:
        """The cosine of every image with each of its own texts; texts must fit (see `pieces`)."""
        # All of it: the models with flexible resolution want sizes and masks beside the pixels.
        pixels = self._image_processor(images=list(images), return_tensors="pt")
        images_ND = self._unit(self._net.get_image_features(**pixels.to(self.device, self._net.dtype)))
        flat = [text for own in texts for text in own]
        batches = (flat[i : i + _TEXT_BATCH] for i in range(0, len(flat), _TEXT_BATCH))
        texts_TD = torch.cat(list(map(self._text_features, batches)))
        owner_T = torch.tensor([index for index, own in enumerate(texts) for _ in own], device=self.device)
        cosines = iter((images_ND[owner_T] * texts_TD).sum(-1).tolist())
        return [tuple(next(cosines) for _ in own) for own in texts]

    def _text_features(self, texts: list[str]) -> torch.Tensor:
        tokens = self._tokenizer(texts, return_tensors="pt", **self._padding).to(self.device)
        return self._unit(self._net.get_text_features(**tokens))

    def _unit(self, output: Any) -> torch.Tensor:
        """The joint-space features of a tower's output as float32 vectors of length one."""
        features_ND: torch.Tensor = getattr(output, "pooler_output", output)
        return torch.nn.functional.normalize(features_ND.float(), dim=-1)
