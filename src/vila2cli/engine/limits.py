"""What a checkpoint allows, read the same way by every engine: context length and end tokens."""

from typing import Any

from vila2cli.engine import Request, Result
from vila2cli.errors import ModelError


def context_length(config: Any) -> int:
    """Tokens of prompt plus answer that a checkpoint's language model has positions for."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or 2**31)


def eos_token_ids(known: int | list[int] | None, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: those of the checkpoint's generation config and the tokenizer's own."""
    ids = [] if known is None else [known] if isinstance(known, int) else list(known)
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    if not ids:
        raise ModelError("the checkpoint names no end token; set eos_token_id in its generation_config.json")
    return sorted({int(token) for token in ids})


def failed(request: Request, error: str) -> Result:
    """The result of a request that the model cannot take."""
    return Result(id=request.id, finish_reason="error", error=error)


def one_line(error: BaseException) -> str:
    """An exception's text without line breaks, cut to 240 characters."""
    return " ".join(str(error).split())[:240] or type(error).__name__
