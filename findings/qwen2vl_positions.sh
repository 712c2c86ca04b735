#!/usr/bin/env bash
# transformers 5.19.0, Qwen2-VL: forward refuses what generate takes in silence, and answers something else.
#
# Image tokens get positions of three axes (time, row, column) only where `mm_token_type_ids` marks them; the
# processor returns it beside the ids. Without it `forward` raises ValueError and names the input, but
# `generate` neither raises nor warns: it counts the image tokens as text. Seen: other logits for the first
# new token, by more than a tenth of their spread.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.19.0
cat >"$here/run.py" <<'PY'
import warnings

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

warnings.simplefilter("error")
torch.manual_seed(0)
IMAGE, START, END = 90, 91, 92
config = Qwen2VLConfig(
    text_config={
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 512,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    },
    vision_config={
        "depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 14, "mlp_ratio": 2,
        "spatial_merge_size": 2, "temporal_patch_size": 2,
    },
    image_token_id=IMAGE, vision_start_token_id=START, vision_end_token_id=END,
)
model = Qwen2VLForConditionalGeneration(config).eval()
with torch.no_grad():  # small random weights would hide what positions do
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(0, weight.shape[1] ** -0.5)
grid = torch.tensor([[1, 8, 8]])  # 64 patches, merged two by two: 16 image tokens
ids = torch.tensor([[5, START, *[IMAGE] * 16, END, 6, 7, 8, 9]])
inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "image_grid_thw": grid,
          "pixel_values": torch.randn(64, 3 * 2 * 14 * 14)}
greedy = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
marked = model.generate(**inputs, mm_token_type_ids=(ids == IMAGE).int(), **greedy).logits[0][0]
left_out = model.generate(**inputs, **greedy).logits[0][0]
try:
    model(**inputs)
except ValueError as error:
    print(f"forward: {error}")
else:
    raise SystemExit("forward takes it as well: this has changed")
share = ((marked - left_out).abs().max() / marked.std()).item()
print(f"generate: no error, no warning; logits differ by up to {share:.2f} of their spread")
assert share > 0.1, "this has changed"
PY
"$here/venv/bin/python" "$here/run.py"
