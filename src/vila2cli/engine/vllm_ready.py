"""Pictures that are ready, handed to vLLM in place of what it would make of their pixels in its main thread.

The rest of what vLLM does with a prompt (where pictures go, how their tensors are batched) it does itself, for
every class of models in its own way. Only what it asks the checkpoint's processor for is known already.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from vila2cli.errors import DataError
from vila2cli.model.chat import Chat
from vila2cli.model.ready import Preparer, ReadyPicture, join_ready
from vila2cli.model.reference import TALL, WIDE, trial_picture
from vila2cli.model.tiles import cuts_itself, most_tiles

_HELD_TO = "vila2_held_to"
"""What tells our processors, in a prompt of vLLM, how many tiles its pictures are held to."""


def take_ready(engine: Any, chat: Chat) -> None:
    """Have an engine take the tensors of pictures that are ready for a chat's model, and our tiles for its own.

    Raises AttributeError, TypeError or ImportError in a version of vLLM that is built in another way.
    """
    from transformers.feature_extraction_utils import BatchFeature
    from vllm.multimodal.processing import InputProcessingContext

    class Context(_telling_tiles(InputProcessingContext, chat)):  # type: ignore[misc]
        def call_hf_processor(
            self, hf_processor: Any, data: Mapping[str, object], kwargs: Mapping[str, object] = {}
        ) -> Any:
            images = data.get("images")
            if isinstance(images, _StandIn):  # of InternVL's kind, which asks about one image as a text
                return self._of_one(hf_processor, data, images.picture, kwargs)
            if not (isinstance(images, list) and any(isinstance(one, _StandIn) for one in images)):
                return super().call_hf_processor(hf_processor, data, kwargs)
            pictures = [one.picture if isinstance(one, _StandIn) else one for one in images]
            made = join_ready([pictures])
            if made is None:
                return super().call_hf_processor(hf_processor, {**data, "images": pictures}, kwargs)
            return self._handed_over(made)

        def _of_one(self, hf_processor: Any, data: Any, picture: ReadyPicture, kwargs: Any) -> Any:
            if picture.tensors is None or data.get("text") != chat.image_token:
                return super().call_hf_processor(hf_processor, {**data, "images": picture}, kwargs)
            ids = torch.tensor([list(chat.pictures.ids(picture, 1))])
            return self._handed_over({**picture.tensors, "input_ids": ids})

        def _handed_over(self, made: Mapping[str, Any]) -> Any:
            # Of their own, for their shapes are changed in place.
            own = {name: value[:] for name, value in made.items()}
            return BatchFeature(self._postprocess_output(own))

    info = engine.renderer.get_mm_processor().info
    info.ctx = Context(**{one.name: getattr(info.ctx, one.name) for one in dataclasses.fields(info.ctx)})


def _telling_tiles(context: Any, chat: Chat) -> Any:
    """A class of vLLM's contexts, with our processors where theirs would cut other tiles."""

    class Context(context):  # type: ignore[misc]
        def get_hf_processor(self, typ: Any = None, /, **kwargs: Any) -> Any:
            most = kwargs.pop(_HELD_TO, 0)
            if most or cuts_itself(chat.processor):
                return chat.pictures.processor_for(most)
            return super().get_hf_processor(*(() if typ is None else (typ,)), **kwargs)

        def get_merged_mm_kwargs(self, kwargs: Mapping[str, object], **options: Any) -> dict[str, Any]:
            known = {name: value for name, value in kwargs.items() if name != _HELD_TO}
            return dict(super().get_merged_mm_kwargs(known, **options))

    return Context


def normalises_itself(engine: Any) -> bool:
    """Whether vLLM has the model normalise pictures on its device, as it does of Qwen2-VL's kind."""
    config = getattr(engine.vllm_config.model_config, "multimodal_config", None)
    return bool(getattr(config, "mm_device_do_normalize", False))


class _StandIn(np.ndarray[Any, Any]):
    """What vLLM is shown of a picture that is ready: an array of its height and width that takes no memory.

    An image it would copy, pixels and all, before it looks at it.
    """

    picture: ReadyPicture

    @classmethod
    def of(cls, picture: ReadyPicture) -> "_StandIn":
        stand_in = np.broadcast_to(np.uint8(0), (picture.height, picture.width, 3)).view(cls)
        stand_in.picture = picture
        return stand_in


def prompt_of(ids: list[int], images: tuple[Image.Image, ...]) -> dict[str, Any]:
    """Ids with a place for each image, and the images, as vLLM takes them."""
    prompt: dict[str, Any] = {"prompt_token_ids": ids}
    if images and (most := most_tiles(images[0])):
        prompt["mm_processor_kwargs"] = {_HELD_TO: most}
    if len(images) == 1 and isinstance(picture := images[0], ReadyPicture):
        prompt["multi_modal_data"] = {"image": [_StandIn.of(picture)]}
        prompt["multi_modal_uuids"] = {"image": [picture.digest]}  # else vLLM hashes pixels
    elif images:
        prompt["multi_modal_data"] = {"image": list(images)}
    return prompt


def takes_alike(engine: Any, ids: list[int], preparer: Preparer) -> bool:
    """Whether vLLM makes the same of a picture that is ready as of its pixels, to the bit.

    `ids` are those of a prompt with a place for one picture.
    """
    try:
        for size in (WIDE, TALL):
            image = trial_picture(size)
            ready = preparer.of(image)
            if not isinstance(ready, ReadyPicture):
                return False
            made = [_rendered(engine, prompt_of(ids, (one,))) for one in (image, ready)]
            names = ("prompt_token_ids", "mm_kwargs", "mm_placeholders")
            if ready.is_decoded or any(made[0][name] != made[1][name] for name in names):
                return False
    except (DataError, ValueError, TypeError, AttributeError, KeyError, AssertionError, RuntimeError):
        return False
    return True


def _rendered(engine: Any, prompt: dict[str, Any]) -> Any:
    (rendered,) = engine.renderer.render_cmpl([prompt], skip_mm_cache=True)
    return rendered
