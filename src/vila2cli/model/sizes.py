"""How many parameters the parts of a model have, by configs and the heads of files, and what they take."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from vila2cli.errors import ModelError
from vila2cli.files import read_json
from vila2cli.model.checkpoint import read_header
from vila2cli.model.freeze import parts_of
from vila2cli.settings import BaseSettings, LoraSettings, Part, TrainSettings

_OF_NO_TOWER = re.compile(r"^text_model\.|^logit_|(^|\.)head\.")
_OF_TOWERS = re.compile(r"(^|\.)(vision_(model|tower)|visual)\.")


def num_parameters(folder: Path) -> int:
    """Parameters of a checkpoint, from the heads of its files; raises ModelError for one missing or cut."""
    return sum(map(math.prod, _shapes(folder).values()))


def _shapes(folder: Path) -> dict[str, list[int]]:
    """The shape of every tensor by name; raises as `num_parameters` does."""
    index = folder / "model.safetensors.index.json"
    names = set(read_json(index)["weight_map"].values()) if index.is_file() else set()
    missing = sorted(name for name in names if not (folder / name).is_file())
    files = sorted(folder / name for name in names) or sorted(folder.glob("*.safetensors"))
    if missing or not files:
        raise ModelError(f"{folder} lacks {', '.join(missing) or '*.safetensors weights'}")
    return {name: tensor["shape"] for path in files for name, tensor in read_header(path)[1].items()}


@dataclass(frozen=True, slots=True)
class PartSizes:
    """Parameters of the parts of a joined model, and the shapes of the LLM's matrices by name."""

    vision_tower: int
    projector: int
    llm: int
    matrices: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, net: PreTrainedModel) -> "PartSizes":
        """Those of a model, of which no weight is looked at: one on the meta device will do."""
        places, sizes = parts_of(net), Counter[Part]()
        shapes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
        for name, shape in shapes.items():
            sizes[places[name]] += math.prod(shape)
        matrices = {name: (s[0], s[1]) for name, s in shapes.items() if places[name] == "llm" and len(s) == 2}
        return cls(sizes["vision_tower"], sizes["projector"], sizes["llm"], matrices)

    def adapters(self, lora: LoraSettings) -> int:
        """Parameters of the adapters on the linear layers that a recipe names."""
        named = (
            shape
            for name, shape in self.matrices.items()
            if name.removesuffix(".weight").rpartition(".")[2] in lora.targets
        )
        return lora.rank * sum(map(sum, named))


def part_sizes(base: BaseSettings, tower: Path, llm: Path) -> PartSizes:
    """The sizes of a joined model's parts, from configs and the heads of the bases' files.

    Not counted is what a base has beside them: another tower, a pooling head, a second copy of a tied head.
    """
    of_tower = {name: shape for name, shape in _shapes(tower).items() if not _OF_NO_TOWER.search(name)}
    if any(_OF_TOWERS.search(name) for name in of_tower):
        of_tower = {name: shape for name, shape in of_tower.items() if _OF_TOWERS.search(name)}
    if base.is_native:
        of_tower = {name: shape for name, shape in of_tower.items() if "merger" not in name}
    config = read_json(llm / "config.json")
    is_tied = bool(config.get("tie_word_embeddings"))
    of_llm = {name: s for name, s in _shapes(llm).items() if not (is_tied and name == "lm_head.weight")}
    return PartSizes(
        vision_tower=sum(map(math.prod, of_tower.values())),
        projector=_projector_size(base, read_json(tower / "config.json"), config),
        llm=sum(map(math.prod, of_llm.values())),
        matrices={name: (s[0], s[1]) for name, s in of_llm.items() if len(s) == 2},
    )


def _projector_size(base: BaseSettings, tower: Mapping[str, Any], llm: Mapping[str, Any]) -> int:
    """Parameters of the projector that is drawn anew; 0 where a config does not say how wide it is."""
    vision = tower.get("vision_config") or tower
    width = vision.get("hidden_size") or 0
    out = llm.get("hidden_size") or 0
    if base.architecture == "idefics3":
        return int(4 * width * out)
    if base.architecture == "internvl":
        return int(8 * width + (4 * width + 1) * out + (out + 1) * out)
    if base.is_native:
        merged = width * int(vision.get("spatial_merge_size") or 2) ** 2
        layers = (merged + 1) * merged + (merged + 1) * out
        if base.architecture == "qwen2_5_vl":
            return int(layers + width)
        num_deep = len(vision.get("deepstack_visual_indexes") or ())
        return int(layers + 2 * width + num_deep * (layers + 2 * merged))
    return int((width + 1) * out + (out + 1) * out)


def training_bytes(
    settings: TrainSettings,
    tower: int,
    llm: int,
    dtype: str,
    *,
    master_weights: bool = True,
    projector: int = 0,
    adapters: int = 0,
) -> int:
    """What a training keeps from step to step: weights, and of trained ones gradient and AdamW's two moments.

    All are float32 unless the training is in bfloat16 without master weights; adapters always are.
    """
    width = 2 if dtype == "bfloat16" and not master_weights else 4
    sizes = {"vision_tower": tower, "projector": projector, "llm": llm}
    trained = sum(size for part, size in sizes.items() if part in settings.train)
    own = adapters if "lora" in settings.train else 0
    return width * (sum(sizes.values()) + 3 * trained) + 4 * 4 * own
