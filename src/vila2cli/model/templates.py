"""Chat templates with image parts for LLM families whose own template takes text only."""

from typing import Any

_CONTENT = (
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n" + _CONTENT + "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    + _CONTENT
    + "<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
VICUNA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}USER: "
    "{% elif m['role'] == 'assistant' %}ASSISTANT: {% endif %}"
    + _CONTENT
    + "{% if m['role'] == 'assistant' %}{{ eos_token }}{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
"""For base models without turn tokens, as LLaVA-1.5 and VILA-7B use it."""

PALIGEMMA = (
    "{% if messages[0]['role'] != 'user' or messages|length > 2 %}"
    "{{ raise_exception('PaliGemma takes one question and no other turn') }}{% endif %}"
    "{% for c in messages[0]['content'] if c['type'] == 'image' %}<image>{% endfor %}{{ bos_token }}"
    "{% for c in messages[0]['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{{ '\\n' }}"
    "{% if messages|length == 2 %}{% for c in messages[1]['content'] %}{{ c['text'] }}{% endfor %}"
    "{{ eos_token }}{% endif %}"
)
"""What PaliGemma's processor makes of a question and its answer (prefix and suffix); it has no template."""

BY_PROCESSOR = {"PaliGemmaProcessor": PALIGEMMA}
"""Templates for processors that have none and lay out their one question themselves."""


def image_template(tokenizer: Any) -> str:
    """The tokenizer's own template if it renders image parts, else the one of its family."""
    own = tokenizer.chat_template
    if isinstance(own, str) and "'image'" in own and "<image>" in own:
        return own
    vocabulary = tokenizer.get_vocab()
    if "<|start_header_id|>" in vocabulary:
        return LLAMA3
    return CHATML if "<|im_start|>" in vocabulary else VICUNA
