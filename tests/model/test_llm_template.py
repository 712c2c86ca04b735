"""Chat templates of LLMs that know no images, and what becomes of them."""

import re
import warnings

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vila2cli.errors import DataWarning
from vila2cli.model.llm_template import image_template
from vila2cli.model.templates import CHATML

QWEN = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are \"Q\", é.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d') %}{% endif %}"
    "{% if messages[0]['role'] == 'system' %}{% set rules = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% else %}{% set rules = 'Today is ' + date_string %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\n{{ rules }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TALK = [{"role": "user", "content": "What?"}]


def tokenizer_of(template: str | None, token: str) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": [token]})
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("own", "token", "family"), [(QWEN, "<|im_start|>", "ChatML"), (LLAMA, "<|start_header_id|>", "Llama 3")]
)
def test_a_replaced_template_keeps_the_system_prompt(own: str, token: str, family: str) -> None:
    tokenizer = tokenizer_of(own, token)
    with pytest.warns(
        DataWarning, match=rf"base\.llm x: .* no place for images, so that of {family} .* stead$"
    ):
        made = image_template(tokenizer, "x")
    for talk in (TALK, [{"role": "system", "content": "Be brief."}, *TALK]):
        wanted, ours = (
            tokenizer.apply_chat_template(
                talk, chat_template=one, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024"
            )
            for one in (own, made)
        )
        assert ours == wanted
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    assert "<image>What?" in tokenizer.apply_chat_template(parts, chat_template=made, tokenize=False)


def test_a_template_that_is_written_where_there_is_none_is_told() -> None:
    with pytest.warns(DataWarning, match=r"base\.llm x: it has no chat template, so that of ChatML is written"):
        assert image_template(tokenizer_of(None, "<|im_start|>"), "x") == CHATML


def test_a_template_that_looks_otherwise_is_told() -> None:
    own = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    with pytest.warns(DataWarning, match=re.escape("turns look otherwise in it than the LLM has learned them")):
        assert image_template(tokenizer_of(own, "<|im_start|>"), "x") == CHATML


def test_nothing_is_said_where_nothing_is_replaced() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_template(tokenizer_of(CHATML, "<|im_start|>")) == CHATML
