"""Whether the files of a checkpoint fit together, found out before its weights are read."""

from pathlib import Path
from typing import Any

from vila2cli.engine.asking import chat_for
from vila2cli.engine.limits import eos_token_ids, stated_ends, unheeded
from vila2cli.errors import ModelError
from vila2cli.model.chat import Chat
from vila2cli.model.layers import context_length
from vila2cli.model.loading import architecture, load_processor, read_model_config
from vila2cli.model.reference import check_places, check_vocabulary, trial_ids
from vila2cli.settings import AskedSettings


def fitting(folder: Path, asked: AskedSettings) -> Chat:
    """The chat of a checkpoint; raises ModelError where its config, processor and tokenizer contradict it."""
    name, config = architecture(folder), read_model_config(folder)
    chat = chat_for(load_processor(folder), asked)
    chat.check(name)
    unheeded(folder, asked)
    eos_token_ids(stated_ends(folder, config), chat)
    check_places(chat, config, name)
    num_tokens, context = len(trial_ids(chat, name)), context_length(config)
    if num_tokens >= context and not chat.pictures.limits:  # else it is shown in fewer tiles
        what = "about a picture " if chat.takes_images else ""
        raise ModelError(
            f"{name}: a short question {what}takes {num_tokens:,} tokens, and its context is {context:,} "
            "(max_position_embeddings)"
        )
    return chat


def check_model(net: Any, chat: Chat) -> None:
    """Raise ModelError for a model, with or without weights, that cannot answer what its processor writes."""
    name = type(net).__name__
    if not net.can_generate():
        raise ModelError(f"{name} generates no text, so it cannot be asked; give another model")
    check_vocabulary(net, chat)
