#!/usr/bin/env bash
# transformers 5.19.0, Janus: `generate` takes a logits processor and never calls it when it writes text.
#
# JanusForConditionalGeneration has a `generate` of its own, for text and for images. Its signature names
# `logits_processor`, but text (its default mode) is made without it: no error, no warning, and a processor that
# allows a single token changes nothing. The same weights' language model calls it for every token. Whoever
# samples by seed, bans words or reads log-probabilities that way gets plain greedy text from this one class.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.19.0
cat >"$here/run.py" <<'PY'
import warnings

import torch
from transformers import JanusConfig, JanusForConditionalGeneration, LlamaForCausalLM, LogitsProcessorList

warnings.simplefilter("error")
torch.manual_seed(0)
text = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 128, "bos_token_id": 0,
        "eos_token_id": 1, "pad_token_id": 2, "max_position_embeddings": 128}
tower = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
         "patch_size": 16, "projection_dim": 64, "mlp_ratio": 2.0}
codes = {"embed_dim": 8, "num_embeddings": 16, "base_channels": 32, "channel_multiplier": [1, 1],
         "num_res_blocks": 1, "latent_channels": 32, "projection_dim": 64, "image_token_embed_dim": 64}
config = JanusConfig(text_config=text, vision_config=tower, vq_config=codes, image_token_id=100)
janus = JanusForConditionalGeneration(config).eval()
llama = LlamaForCausalLM(config.text_config).eval()
ids = torch.tensor([[5, 6, 7, 8, 9]])
ALLOWED = 42
calls = 0


def only_one_token(ids, logits):
    global calls
    calls += 1
    ban = torch.full_like(logits, float("-inf"))
    ban[:, ALLOWED] = 0
    return ban


def run(model):
    global calls
    calls = 0
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                         max_new_tokens=4, min_new_tokens=4, logits_processor=LogitsProcessorList([only_one_token]))
    new = out[0, -4:].tolist()
    print(f"{type(model).__name__}: processor called {calls} times, tokens {new}")
    return calls, new


assert run(llama) == (4, [ALLOWED] * 4), "this has changed"
called, new = run(janus)
assert called == 0, "this has changed"
assert new != [ALLOWED] * 4, "this has changed"
PY
"$here/venv/bin/python" "$here/run.py"
