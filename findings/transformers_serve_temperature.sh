#!/usr/bin/env bash
# transformers 5.24.0, `transformers serve`: the `temperature` of a request draws nothing.
#
# It reaches `generate`, but nothing turns sampling on: where a checkpoint's generation_config does not say
# do_sample = true, as of many VLMs, every answer is the greedy one, at temperature 2 and with other seeds, too. Several
# captions of a picture, best-of-n and votes of a judge are then copies of one. The status is 200, and no warning comes
# back. Seen: one different answer of 6 seeds; with do_sample = true in the checkpoint 6 of 6.
set -euo pipefail
here=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 'transformers[serving]==5.24.0'
cat >"$here/make.py" <<'PY'
import sys

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

words = {"<pad>": 0, "</s>": 1, **{f"w{number}": number + 2 for number in range(254)}}
backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
for name, draws in (("plain", None), ("drawing", True)):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=256, num_key_value_heads=2, max_position_embeddings=2048, **sizes))
    model.generation_config.eos_token_id = None  # so that nothing but a limit ends an answer
    if draws:
        model.generation_config.do_sample = draws
    model.save_pretrained(f"{sys.argv[1]}/{name}")
    tokenizer.save_pretrained(f"{sys.argv[1]}/{name}")
PY
cat >"$here/ask.py" <<'PY'
import json
import sys
import time
import urllib.request

base, folder = sys.argv[1:]


def ask(name, **fields):
    body = {"model": f"{folder}/{name}", "messages": [{"role": "user", "content": "w1 w2 w3"}], **fields}
    request = urllib.request.Request(
        f"{base}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)


for _ in range(300):
    try:
        urllib.request.urlopen(f"{base}/health", timeout=5)
        break
    except OSError:
        time.sleep(0.5)


def different(name):
    replies = [ask(name, temperature=2.0, seed=seed, max_tokens=8) for seed in range(6)]
    return len({reply["choices"][0]["message"]["content"] for reply in replies})


print("FOUND", different("plain"), different("drawing"))
PY
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
"$here/venv/bin/python" "$here/make.py" "$here" 2>"$here/log"
free='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
port=$("$here/venv/bin/python" -c "$free")
"$here/venv/bin/transformers" serve --host 127.0.0.1 --port "$port" --device cpu --dtype float32 >"$here/log" 2>&1 &
server=$!
found=$("$here/venv/bin/python" "$here/ask.py" "http://127.0.0.1:$port" "$here" | grep FOUND) ||
  { tail -n 5 "$here/log"; exit 1; }
echo "different answers of 6 seeds; with do_sample = true: ${found#FOUND }"
[ "$found" = "FOUND 1 6" ] || { echo "this has changed"; exit 1; }
