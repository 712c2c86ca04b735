"""The merged caption in what a language model wrote that was shown two captions under labels.

Small ones say the captions again before it, label and all, and tell afterwards what they did.
"""

import re
from collections.abc import Sequence

from vila2cli.text.lead_ins import strip_wrapping

_MADE = "combined?|merged?|new|refined?|final|rewritten|revised?|resulting|improved?|single|joined?|updated?"
_WHAT = "sentence|caption|description|version|text|statement|result|output|answer"
_LABEL = re.compile(
    rf"^[\W_]*(?:(?:the|a|one)\s+)?(?:(?:possible|{_MADE})\s+)*(?:(?:{_MADE})(?:\s+(?:{_WHAT}))?|result|output|answer)"
    r"(?:\s+\d)?(?:\s+(?:is|reads|(?:would|could|might)\s+be))?\s*:[*_\s]*",
    re.IGNORECASE | re.MULTILINE,
)
_COMMENT = re.compile(
    rf"\W*(?:(?:in )?(?:this|the|these|both)\s+(?:(?:{_MADE}|original|above|two|given)\s+)*(?:{_WHAT})s?\b"
    r"|(?:note|explanation|reasoning|changes?(?: made)?)\b[^.\n]{0,20}:|note that\b"
    r"|i (?:have )?(?:\w+ed|took|kept)\b|by (?:combining|merging)\b)",
    re.IGNORECASE,
)
_MARKER = re.compile(r"^(?:[-*•]|\d+[.)])\s+")
_QUOTES = {'"': '"', "“": "”", "'": "'", "«": "»", "`": "`"}


def labels_of(template: str, slots: Sequence[str]) -> tuple[str, ...]:
    """The labels that a prompt's template puts before its slots: `Sentence 1:` of `Sentence 1: {original}`."""
    found = [re.search(rf"^([^\n{{}}]*\w[^\n{{}}]*?)\s*\{{{slot}\}}", template, re.MULTILINE) for slot in slots]
    return tuple(label for match in found if match and not (label := match[1].strip())[-1].isalnum())


def merged_part(text: str, labels: Sequence[str]) -> str:
    """The merged caption alone; "" where nothing stands beside the captions that were shown.

    It is what a label of its own names, else what is left without the lines that open with one of `labels`. One
    such line alone is the caption under a wrong label.
    """
    text = strip_wrapping(text)
    marked = [text[match.end() :] for match in _LABEL.finditer(text) if text[match.end() :].strip()]
    if marked:
        return _bare(_paragraphs(marked[-1], labels)[:1])
    shown = [line for line in text.splitlines() if _shown(line, labels) is not None]
    if len(shown) == 1 and not _paragraphs(text, labels):
        return _bare([_shown(shown[0], labels) or ""])
    return _bare(_paragraphs(text, labels)[: 1 if shown else None])


def _paragraphs(text: str, labels: Sequence[str]) -> list[str]:
    """Paragraphs that neither repeat what was shown nor tell what was done; a line that repeats ends one."""
    lines = ["" if _shown(line, labels) is not None else line for line in text.splitlines()]
    parts = [part.strip() for part in re.split(r"\n\s*\n", "\n".join(lines))]
    return [part for part in parts if part and not _COMMENT.match(part)]


def _shown(line: str, labels: Sequence[str]) -> str | None:
    """What follows one of the labels that a line opens with, None for another line."""
    bare = line.lstrip(" \t*_#>-•")
    for label in labels:
        if bare.lower().startswith(label.lower()):
            return bare[len(label) :].strip(" *_")
    return None


def _bare(paragraphs: Sequence[str]) -> str:
    """Paragraphs as one text without a list's marker, or quotation marks around all of it."""
    text = _MARKER.sub("", "\n\n".join(paragraphs).strip())
    closing = _QUOTES.get(text[:1])
    if closing and len(text) > 2 and text.endswith(closing) and closing not in text[1:-1]:
        return text[1:-1].strip()
    return text
