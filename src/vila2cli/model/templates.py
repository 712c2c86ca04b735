"""Chat templates: with image parts for LLM families whose own takes text only, and which arguments one has."""

import re
from collections.abc import Iterable
from typing import Any

from vila2cli.errors import ModelError, UnaskableError, meant

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
        raise ModelError("the checkpoint has no chat template; add chat_template.jinja to its folder")
    if isinstance(template, str):
        return template
    if "default" not in template:
        raise ModelError(
            f"the checkpoint has several chat templates ({', '.join(map(str, template))}), and none is named "
            "default; save the one to use as chat_template.jinja"
        )
    return str(template["default"])


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
