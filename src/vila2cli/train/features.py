"""Features of a frozen vision tower, computed once per image and kept in memory between epochs.

Shapes: N images of T tiles, P patches, D tower channels, B sequences of S tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Idefics3ForConditionalGeneration, PreTrainedModel

from vila2cli.errors import ModelError


class TowerFeatures:
    """A cache in front of an Idefics3 model's tower; its projector still runs, and trains, every time."""

    def __init__(self, model: PreTrainedModel) -> None:
        if not isinstance(model, Idefics3ForConditionalGeneration):
            raise ModelError(f"cache_features works with idefics3 models only, not with {type(model).__name__}")
        self._model = model
        self._features: dict[str, Tensor] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._features

    def add(self, keys: Sequence[str], pixel_inputs: dict[str, Any]) -> None:
        """Run the tower over images (N x T x C x H x W) and keep those of each one's tiles under its key.

        Tiles of zeros are there to fill up, as for the model itself.
        """
        model = self._model.model
        is_tile_NT = pixel_inputs["pixel_values"].flatten(2).any(dim=2)
        pixels_NCHW = pixel_inputs["pixel_values"][is_tile_NT].to(model.device, model.dtype)
        mask_NHW = pixel_inputs["pixel_attention_mask"][is_tile_NT].to(model.device)
        patch = model.config.vision_config.patch_size
        patches = mask_NHW.unfold(1, patch, patch).unfold(2, patch, patch).sum((-1, -2)) > 0
        with torch.no_grad():
            output = model.vision_model(pixel_values=pixels_NCHW, patch_attention_mask=patches)
        of_images = output.last_hidden_state.split(is_tile_NT.sum(dim=1).tolist())
        for key, features_TPD in zip(keys, of_images, strict=True):
            self._features[key] = features_TPD.clone()

    def project(self, keys: Sequence[str]) -> Tensor:
        """The projector's output for the tiles of images, T x image tokens x D of the LLM."""
        projected: Tensor = self._model.model.connector(torch.cat([self._features[key] for key in keys]))
        return projected

    def embed(self, ids_BS: Tensor, keys: Sequence[str]) -> Tensor:
        """Token embeddings B x S x D with the projected features where the image ids are."""
        model = self._model.model
        projected = self.project(keys).flatten(0, 1)
        embeddings = model.get_input_embeddings()(ids_BS)
        is_image = (ids_BS == model.config.image_token_id).unsqueeze(-1)
        merged: Tensor = embeddings.masked_scatter(is_image, projected.to(embeddings.dtype))
        return merged
