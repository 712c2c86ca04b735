"""Chat templates: with image parts for LLM families whose own takes text only, and which arguments one has."""

import re
from collections.abc import Iterable
from typing import Any

from PIL import Image

from vila2cli.errors import RUN_ERRORS, ModelError, UnaskableError, meant

_TRIED = (64, 48)
"""A picture's size for which a processor without a template is tried."""

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


def chosen_template(processor: Any) -> str:
    """The template by which transformers renders a conversation; raises ModelError where there is none."""
    template = getattr(processor, "chat_template", None) or BY_PROCESSOR.get(type(processor).__name__)
    if not template:
        raise ModelError(_without_template(processor))
    if isinstance(template, str):
        return template
    if "default" not in template:
        raise ModelError(
            f"the checkpoint has several chat templates ({', '.join(map(str, template))}), and none is named "
            "default; save the one to use as chat_template.jinja"
        )
    return str(template["default"])


def _without_template(processor: Any) -> str:
    """What to do about a processor that has no template, which not every one can make use of."""
    mark = str(getattr(processor, "image_token", None) or "")
    if hasattr(processor, "image_processor") and not (mark and _puts_in_place(processor, mark)):
        return (
            f"{type(processor).__name__} has no chat template, and makes prompts about one picture in its own "
            "way: its model cannot be asked here; give one that chats, such as a LLaVA or Qwen-VL"
        )
    place = f", with {mark} where a picture stands" if mark else ""
    return f"the checkpoint has no chat template; add chat_template.jinja to its folder{place}"


def _puts_in_place(processor: Any, mark: str) -> bool:
    """Whether a processor puts a picture where its mark stands in a text, rather than before all of it."""
    try:
        made = processor(text=[f"a{mark}b"], images=[[Image.new("RGB", _TRIED)]], return_tensors="pt")
        text = processor.tokenizer.decode(made["input_ids"][0])
    except RUN_ERRORS:
        return False
    return "a" in text.partition(mark)[0]


def check_arguments(template: str, names: Iterable[str]) -> None:
    """Raise UnaskableError for an argument that a template does not use, naming the nearest one that it does.

    Of an argument that it does not know a template says nothing.
    """
    used = _names(template)
    for name in names:
        if name not in used:
            what = f"has no argument {name!r} (chat_template){meant(name, used)}"
            raise UnaskableError(f"the model's chat template {what}")


def _names(template: str) -> set[str]:
    """The names that a template's expressions use, attributes and texts in quotation marks left out."""
    without_comments = re.sub(r"\{#.*?#\}", "", template, flags=re.DOTALL)
    inside = " ".join(re.findall(r"\{[{%](.*?)[%}]\}", without_comments, re.DOTALL))
    return set(re.findall(r"(?<![.\w])[A-Za-z_]\w*", re.sub(r"'[^']*'|\"[^\"]*\"", "", inside)))
