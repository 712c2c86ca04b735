"""How many floating-point operations a step of training needs, for the model FLOPs utilisation (MFU).

Counted are the multiplications of matrices, two operations each, as the model needs them: nothing that is
computed again for gradient checkpointing, and no masked half of attention.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from vila2cli.model.freeze import parts_of
from vila2cli.model.layers import layers_of
from vila2cli.settings import Part

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "H800": 989.0, "A100": 312.0, "A800": 312.0, "L40S": 362.0}
"""Dense bfloat16 peaks as the vendor states them, by a word of the device's name."""


@dataclass(frozen=True, slots=True)
class Work:
    """Operations of a forward and backward pass: per LLM token, per pair of tokens that sees each other,
    per trained token (its logits) and per image."""

    per_token: float
    per_pair: float
    per_trained: float
    per_image: float

    def of(self, *, tokens: int, pairs: int, trained: int, images: int) -> float:
        """Operations for so many of each; `pairs` is the sum of the squared lengths of sequences."""
        counts = ((self.per_token, tokens), (self.per_pair, pairs), (self.per_trained, trained))
        return sum(each * number for each, number in (*counts, (self.per_image, images)))


def work_of(model: PreTrainedModel, trained: Collection[Part]) -> Work:
    """Two operations a weight forward, two to pass gradients on, two more for the weight's own gradient.

    Gradients are passed as far down as something is trained.
    """
    sizes: dict[Part, int] = {"vision_tower": 0, "projector": 0, "llm": 0, "lora": 0}
    parts = parts_of(model)
    head = model.get_output_embeddings()
    embeddings = model.get_input_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module not in (head, embeddings):
            sizes[parts[f"{name}.weight"]] += module.weight.numel()
    llm = 4 + 2 * ("llm" in trained)
    tower = 6 if "vision_tower" in trained else 2
    projector = 2 + 2 * ("vision_tower" in trained) + 2 * ("projector" in trained)
    vision = getattr(model.config, "vision_config", None)
    patches = tokens = width = 0
    if vision is not None and hasattr(vision, "image_size"):  # else images have no one size, and do not count
        patches = (_side(vision.image_size) // _side(vision.patch_size)) ** 2
        merge = getattr(model.config, "scale_factor", 1) / getattr(model.config, "downsample_ratio", 1)
        tokens = round(patches / merge**2)
        width = getattr(vision, "hidden_size", 0) * getattr(vision, "num_hidden_layers", 0)
    per_image = tower * (sizes["vision_tower"] * patches + 2 * patches**2 * width)
    per_image += projector * sizes["projector"] * tokens
    attended = sum(layer.heads * layer.head_dim for layer in layers_of(model.config))
    return Work(
        per_token=llm * sizes["llm"] + 6 * sizes["lora"],
        per_pair=6 * attended,  # no weights: both factors need their gradient
        per_trained=llm * head.weight.numel() if head is not None else 0,
        per_image=per_image,
    )


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]


def peak_flops(device_name: str, stated_tflops: float = 0.0) -> float:
    """The peak of a device in operations a second, 0 when it is not known."""
    known = next((peak for word, peak in PEAK_TFLOPS.items() if word in device_name), 0.0)
    return (stated_tflops or known) * 1e12
