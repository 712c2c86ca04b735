"""The check of a processor: what is rendered here equals what its own path makes of the same conversations.

That path is `processor.apply_chat_template(..., tokenize=True)`, or `processor(text, images)` for one without a
chat template. It reads and cuts every picture for every prompt; here a prompt is rendered once and a size of
pictures expanded once, which is the same for most processors and is seen here to be.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from vila2cli.errors import DataError, ModelError, one_line
from vila2cli.model.pictures import OF_TEXT
from vila2cli.model.rendering import ODD
from vila2cli.shards.sample import Turn

if TYPE_CHECKING:
    from vila2cli.model.chat import Chat

ASKED = (Turn("user", "What is shown?"),)
WIDE, TALL, SQUARE = (150, 60), (70, 180), (96, 96)
HASTENED = (WIDE, (5, 7), (256, 256), (401, 830))
"""The sizes on which quicker ways are compared with the processor's own."""
_OF_IMAGES = ("image_token_id", "image_token_index")
"""What configs call the token in whose place a model puts what it makes of a picture."""
_REPLACED = ("gemma3", "gemma4", "gemma4_unified", "kimi_k25", "muse_glimmer", "paligemma")
"""Models whose token of a picture may lie behind all that they have."""


def check(chat: "Chat", name: str) -> None:
    """Settle how a chat makes ids and tensors, so that they equal the processor's own.

    Raises ModelError in one line where that cannot be had: the picture is left out, or something is given to
    the model that is made nowhere but in the processor.
    """
    if not chat.takes_images:
        if hasattr(chat.processor, "image_processor"):
            raise ModelError(f"{name}: its processor does not say what an image is in a text (image_token)")
        return
    try:
        _settle(chat, name)
    except DataError as error:
        raise ModelError(f"{name} cannot be asked about a picture: {one_line(error)}") from None


def trial_ids(chat: "Chat", name: str) -> list[int]:
    """The ids of a question, about a picture where the model takes any; raises ModelError."""
    try:
        return chat.prompt_ids(ASKED, [trial_picture(WIDE)] if chat.takes_images else [])
    except DataError as error:
        raise ModelError(f"{name} cannot be asked: {one_line(error)}") from None


def check_places(chat: "Chat", config: Any, name: str) -> None:
    """Raise ModelError where a model puts a picture in the place of a token that its processor does not write.

    Many classes then answer as if there were none.
    """
    found = (getattr(config, one, None) for one in _OF_IMAGES)
    place = next((one for one in found if isinstance(one, int)), None)
    if not chat.takes_images or place is None or place in trial_ids(chat, name):
        return
    raise ModelError(
        f"{name} would not see a picture: its config.json puts one in the place of token {place} "
        f"({_spelled(chat, place)}), and its processor writes {chat.image_token_id} "
        f"({_spelled(chat, chat.image_token_id)}); give it the tokenizer that it was trained with"
    )


def padding(net: Any, chat: "Chat", ends: Sequence[int]) -> int:
    """The token that fills up shorter prompts, which is masked: an end token where the model has no other."""
    own = chat.tokenizer.pad_token_id
    return ends[0] if own is None or own >= _num_known(net) else int(own)


def check_vocabulary(net: Any, chat: "Chat") -> None:
    """Raise ModelError where a prompt has tokens that the model has none of, with or without its weights."""
    name, num_known = type(net).__name__, _num_known(net)
    is_replaced = net.config.model_type in _REPLACED  # the token of a picture, before it is looked up
    ids = (token for token in trial_ids(chat, name) if not is_replaced or token != chat.image_token_id)
    highest = max(ids, default=0)
    if highest >= num_known:
        raise ModelError(
            f"{name}: its tokenizer writes token {highest} ({_spelled(chat, highest)}) in a prompt, and the "
            f"model has {num_known:,}; give it the tokenizer that it was trained with"
        )


def _num_known(net: Any) -> int:
    """The tokens that a model has embeddings of."""
    return len(net.get_input_embeddings().weight)


def _spelled(chat: "Chat", token: int) -> str:
    """What the tokenizer calls a token."""
    known = 0 <= token < len(chat.tokenizer)
    return str(chat.tokenizer.convert_ids_to_tokens(token)) if known else "unknown to its tokenizer"


def _settle(chat: "Chat", name: str) -> None:
    wide, tall = trial_picture(WIDE), trial_picture(TALL)
    shown: list[list[Image.Image]] = [[wide], [tall, wide]]
    if chat.image_token not in chat.rendering.prompt(ASKED, 1):
        raise ModelError(
            f"{name}: its chat template leaves the picture out ({chat.image_token} is not in what it writes); "
            "use one that renders image parts"
        )
    try:
        theirs = _own_path(chat, shown)
    except ODD as error:
        first = error
        try:
            theirs, shown = _own_path(chat, shown[:1]), shown[:1]
        except ODD:
            raise ModelError(f"{name}: its own processor fails on a picture: {one_line(first)}") from None
        chat.most_images = 1
    ids = _rows(theirs, "input_ids")
    try:
        _settle_parts(chat, shown, theirs, name)
    except ModelError:
        chat.whole, chat.token_types = True, {}
        if not _same_ids(chat, shown, ids):
            chat.whole = False
            raise
    _settle_texts(chat, name)
    if not chat.whole:
        chat.pictures.hasten([trial_picture(size) for size in HASTENED])


def _settle_texts(chat: "Chat", name: str) -> None:
    """Settle how prompts without pictures are made, which some processors begin with more than a tokenizer."""
    try:
        ids = _rows(_own_path(chat, [[]]), "input_ids")
    except ODD:  # it takes none
        return
    for chat.whole_texts in (False, True):
        if _same_ids(chat, [[]], ids):
            return
    raise ModelError(f"{name} is not supported: its processor lays out prompts without pictures otherwise")


def _settle_parts(chat: "Chat", shown: list[list[Image.Image]], theirs: Mapping[str, Any], name: str) -> None:
    """Settle how prompts are made of parts: ids of text, ids of pictures, tensors."""
    ids = _rows(theirs, "input_ids")
    for chat.pictures.by_number, chat.by_text in product((False, True), repeat=2):
        if _same_ids(chat, shown, ids):
            break
    else:
        raise ModelError(
            f"{name} is not supported: what its processor makes of a prompt with pictures is not what its chat "
            "template writes"
        )
    chat.token_types = _token_types(theirs, ids, name)
    given = theirs.keys() - chat.token_types.keys() - set(OF_TEXT)
    for chat.pictures.alone in (True, False):
        chat.pictures.names, ours = None, dict[str, Any]()
        with suppress(DataError):
            ours = chat.pictures.tensors(shown)
            if given <= ours.keys() and all(_equal(ours[one], theirs[one]) for one in given):
                chat.pictures.names = frozenset(given)
                return
    lacking = sorted(given - ours.keys()) or sorted(given)
    raise ModelError(f"{name} is not supported: its {', '.join(lacking)} cannot be made of pictures alone")


def _own_path(chat: "Chat", shown: Sequence[Sequence[Image.Image]]) -> Mapping[str, Any]:
    """What the processor's own path gives the model for a batch of prompts."""
    processor = chat.processor
    with _padding(chat.tokenizer):
        if chat.template is not None:
            texts = [chat.image_token * len(images) + ASKED[0].text for images in shown]
            made = processor(text=texts, images=list(map(list, shown)), padding=True, return_tensors="pt")
        else:
            made = processor.apply_chat_template(
                [_messages(images) for images in shown],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
                **chat.arguments,
            )
    return {name: value for name, value in made.items() if name != "labels"}


@contextmanager
def _padding(tokenizer: Any) -> Iterator[None]:
    """Let a tokenizer without a padding token pad; which token it is does not matter, as all are masked."""
    if tokenizer.pad_token is not None:
        yield
        return
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    try:
        yield
    finally:
        tokenizer.pad_token = None


def _messages(images: Sequence[Image.Image]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": ASKED[0].text}]}]


def _rows(made: Mapping[str, Any], name: str) -> list[list[int]]:
    """The values of each prompt's tokens, without padding."""
    masks = made.get("attention_mask")
    rows = [row.tolist() for row in made[name]]
    if masks is None:
        return rows
    return [
        [value for value, seen in zip(row, mask.tolist(), strict=True) if seen]
        for row, mask in zip(rows, masks, strict=True)
    ]


def _same_ids(chat: "Chat", shown: Sequence[Sequence[Image.Image]], theirs: list[list[int]]) -> bool:
    try:
        return [chat.prompt_ids(ASKED, images) for images in shown] == theirs
    except DataError:
        return False


def _token_types(made: Mapping[str, Any], ids: list[list[int]], name: str) -> dict[str, dict[int, int]]:
    """What is given for each token beside its id: by name the values of the ids that have one but 0."""
    shape = tuple(made["input_ids"].shape)
    found: dict[str, dict[int, int]] = {}
    for key, value in made.items():
        if key in OF_TEXT or not isinstance(value, torch.Tensor) or tuple(value.shape[:2]) != shape:
            continue
        values: dict[int, set[int]] = {}
        if value.ndim == 2 and not value.is_floating_point():
            for row, own in zip(ids, _rows(made, key), strict=True):
                for token, one in zip(row, own, strict=True):
                    values.setdefault(token, set()).add(int(one))
        if not values or any(len(several) > 1 for several in values.values()):
            raise ModelError(f"{name} is not supported: its {key} depends on more than a token and its picture")
        found[key] = {token: one for token, (one,) in values.items() if one}
    return found


def _equal(ours: Any, theirs: Any) -> bool:
    """Whether two sets of tensors are the same; tiles of one picture a row equal those of a sample a row."""
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        if ours.shape == theirs.shape:
            return torch.equal(ours, theirs)
        return ours.ndim == theirs.ndim >= 4 and torch.equal(_tiles(ours), _tiles(theirs))
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(_equal, ours, theirs))
    return type(ours) is type(theirs) and bool(ours == theirs)


def _tiles(tensor: torch.Tensor) -> torch.Tensor:
    """The tiles of all pictures, those that are there to fill up a row left out."""
    flat = tensor.flatten(0, 1)
    return flat[flat.flatten(1).any(dim=1)]


def trial_picture(size: tuple[int, int]) -> Image.Image:
    """A picture with no two equal rows or columns."""
    across = Image.linear_gradient("L").rotate(90).resize(size)
    down = Image.linear_gradient("L").resize(size)
    return Image.merge("RGB", (across, down, Image.radial_gradient("L").resize(size)))
