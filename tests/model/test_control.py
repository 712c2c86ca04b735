"""Text is data: no caption, answer or document spells a token that steers the model, in any tokenizer."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoProcessor, ByT5Tokenizer, PreTrainedTokenizerFast

from vila2cli.errors import DataError
from vila2cli.model.build import resolve_base
from vila2cli.model.chat import IGNORE_INDEX, Chat
from vila2cli.model.control import PUBLISHED, visibly_inert
from vila2cli.model.templates import CHATML, LLAMA3, VICUNA
from vila2cli.shards.sample import Turn

TEXTS = ["A large red circle at the top left.", "user assistant system model", "Describe the image. x"] * 20
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}[INST] {{ m['content'] }}[/INST]{% endif %}{% endfor %}"
)
LLAVA = (
    "{% for m in messages %}{{ m['role'].upper() }}: {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SEPARATED = (
    "{% for m in messages %}[CLS] {{ m['role'] }} {{ m['content'] }} [SEP]{% endfor %}"
    "{% if add_generation_prompt %}[CLS] assistant {% endif %}"
)


def byte_level(special: Sequence[str | AddedToken]) -> Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    bpe.add_special_tokens(list(special))
    return bpe


def chat_of(tokenizer: Tokenizer, template: str, **named: str) -> Chat:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    fast.chat_template = template
    return Chat(fast)


def llama3() -> Chat:
    """Header and eot tokens are special in tokenizer.json alone."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    special += [f"<|reserved_special_token_{i}|>" for i in range(20)]
    return chat_of(byte_level(special), LLAMA3, bos_token=special[0], eos_token=special[1])


def qwen_base() -> Chat:
    """Its eos is not what ends the template's turns."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>"]
    return chat_of(byte_level(special), CHATML, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def added_without_special() -> Chat:
    """A fine-tune whose turn tokens were added as any others."""
    bpe = byte_level(["<|endoftext|>"])
    bpe.add_tokens([AddedToken("<|im_start|>", normalized=False), AddedToken("<|im_end|>", normalized=False)])
    return chat_of(bpe, CHATML, eos_token="<|endoftext|>")


def gemma() -> Chat:
    """Spaces become a mark, bytes stand in for what is not in the vocabulary."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"]
    pieces = sorted(set("".join(TEXTS)) | {"▁"})
    vocabulary = [*special, *(f"<0x{i:02X}>" for i in range(256)), *pieces]
    bpe = Tokenizer(
        models.BPE({w: i for i, w in enumerate(vocabulary)}, [], byte_fallback=True, unk_token="<unk>")
    )
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.add_special_tokens(special)
    bpe.add_tokens([AddedToken(word, normalized=False) for word in ("\n", "\n\n", "<table>", "user", "  ")])
    return chat_of(bpe, GEMMA, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def mistral() -> Chat:
    special = ["<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[TOOL_CALLS]"]
    return chat_of(byte_level(special), MISTRAL, bos_token="<s>", eos_token="</s>")


def unigram() -> Chat:
    """NFKC and lower case; control pieces lie in the vocabulary, and are looked for in normalised text, too."""
    control = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(set("".join(TEXTS).lower()) | set("▁<>/|_abcdefghijklmnopqrstuvwxyz\n"))
    pieces = [(name, 0.0) for name in control] + [(letter, -5.0) for letter in letters]
    model = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    model.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    model.add_special_tokens([AddedToken(name, special=True, normalized=True) for name in control])
    return chat_of(model, CHATML, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_piece() -> Chat:
    """Accents and control characters are stripped, tokens take the white space around them."""
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    words = sorted(set("".join(TEXTS).lower()) - {" "}) + [chr(c) for c in range(33, 127)]
    vocabulary = {w: i for i, w in enumerate(dict.fromkeys([*special, *words, *(f"##{w}" for w in words)]))}
    model = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    model.normalizer = normalizers.BertNormalizer(lowercase=False)
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    model.add_special_tokens([AddedToken(w, lstrip=True, rstrip=True, normalized=True) for w in special])
    return chat_of(model, SEPARATED, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", eos_token="[SEP]")


def llava() -> Chat:
    """A template that ends no turn."""
    return chat_of(byte_level(["<s>", "</s>", "<unk>"]), LLAVA, bos_token="<s>", eos_token="</s>")


def vicuna() -> Chat:
    return chat_of(byte_level(["<s>", "</s>", "<unk>"]), VICUNA, bos_token="<s>", eos_token="</s>")


def glm() -> Chat:
    """Turns begin with a token, and end with the next one's."""
    template = (
        "[gMASK]{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    special = ["<|endoftext|>", "[gMASK]", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    return chat_of(byte_level(special), template, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def joined() -> Chat:
    """A token that the end of a text forms with what the template writes next."""
    bpe = byte_level(["</s>", "<s>", "e]]", "]]]"])
    template = "{% for m in messages %}<s>{{ m['content'] }}]]</s>{% endfor %}"
    return chat_of(bpe, template, bos_token="<s>", eos_token="</s>")


def squeezed() -> Chat:
    """A normaliser that takes out what stands inside of a token."""
    bpe = byte_level(["<s>", "</s>"])
    bpe.normalizer = normalizers.Replace(Regex(r"[\u200b\u00ad]"), "")
    bpe.add_tokens([AddedToken("<turn>", special=True, normalized=True)])
    template = "{% for m in messages %}<turn>{{ m['content'] }}</s>{% endfor %}"
    return chat_of(bpe, template, bos_token="<s>", eos_token="</s>")


def bytes_alone() -> Chat:
    """A tokenizer in Python."""
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = VICUNA
    return Chat(tokenizer)


KINDS: dict[str, Callable[[], Chat]] = {
    make.__name__: make
    for make in (
        llama3,
        qwen_base,
        added_without_special,
        gemma,
        mistral,
        unigram,
        word_piece,
        llava,
        vicuna,
        glm,
        joined,
        squeezed,
        bytes_alone,
    )
}
MADE: dict[str, Chat] = {}


def made(kind: str) -> Chat:
    if kind not in MADE:
        MADE[kind] = KINDS[kind]()
    return MADE[kind]


def spellings(chat: Chat) -> list[str]:
    """Control tokens, what they may look like before a tokenizer has normalised them, and parts of them."""
    names = [chat.tokenizer.convert_ids_to_tokens(token) for token in sorted(chat.controls.ids)]
    wide = [name.translate({ord(c): ord(c) + 0xFEE0 for c in "<>|/[]"}) for name in names]
    hidden = [f"{name[:2]}\u200b{name[2:]}" for name in names] + [
        f"{name[:2]}\u00ad{name[2:]}" for name in names
    ]
    parts = [name[:half] for name in names for half in (1, 2, len(name) - 1)] + [name[2:] for name in names]
    return [*names, *wide, *hidden, *parts, *(name.upper() for name in names), *(f" {name} " for name in names)]


def counts(chat: Chat, text: str) -> list[tuple[int, ...]]:
    """The control tokens of a prompt, of a conversation, of what is trained, and of an answer alone."""
    turns = [
        Turn("user", text),
        Turn("assistant", text),
        Turn("user", f"{text} x"),
        Turn("assistant", f"x{text}"),
    ]
    ids, labels = chat.train_ids(turns, [])
    trained = [token for token, label in zip(ids, labels, strict=True) if label != IGNORE_INDEX]
    found = [chat.prompt_ids(turns[:3], []), ids, trained, answer_ids(chat, text)]
    return [chat.controls.among(one) for one in found]


def answer_ids(chat: Chat, text: str) -> list[int]:
    """The ids of an answer that is scored."""
    ids, num_answer = chat.scored_ids([Turn("user", "x")], [], text)
    return ids[-num_answer:]


@pytest.mark.parametrize("kind", KINDS)
def test_every_control_token_is_spelled_in_vain(kind: str) -> None:
    chat = made(kind)
    plain = counts(chat, "a red circle")
    assert plain[1]
    assert plain[3] == () or kind == "joined"  # which ends answers with a token of template and text
    for spelled in spellings(chat):
        for text in (f"a {spelled}{spelled} circle", f"red{spelled}", f"{spelled}\n"):
            if text.strip():
                assert counts(chat, text) == plain, text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_text_brings_in_or_swallows_a_control_token(kind: str, data: st.DataObject) -> None:
    chat = made(kind)
    parts = st.one_of(
        st.sampled_from(spellings(chat)), st.text(max_size=6), st.sampled_from([" ", "\n", "red "])
    )
    text = "".join(data.draw(st.lists(parts, min_size=1, max_size=8)))
    if not text.strip():
        return
    if not chat.tokenizer(text, add_special_tokens=False)["input_ids"]:  # a character that it leaves out
        with pytest.raises(DataError, match="there is no text to score"):
            answer_ids(chat, text)
        text = f"{text}x"
    assert counts(chat, text) == counts(chat, "a red circle"), text


def test_a_token_that_a_tokenizer_places_wrongly_is_opened_too() -> None:
    chat = made("word_piece")
    text = "\u4e00[C\u200bLS]"  # which BERT's normalizer takes together, and its offsets begin before it
    assert counts(chat, text) == counts(chat, "a red circle")


def test_plain_text_is_left_as_it_is() -> None:
    chat = made("llama3")
    text = "a < b, <b>bold</b>, {{ jinja }} {% raw %} [1] <|"
    assert chat.tokenizer.decode(answer_ids(chat, text)) == text
    assert chat.controls.inert("a <|eot_id|> b") == "a < |eot_id|> b"


def test_white_space_and_words_that_a_vocabulary_was_extended_by_stay() -> None:
    chat = made("gemma")
    text = "a user\n\nred  circle\n<table> <b>"
    assert chat.controls.inert(text) == chat.controls.firm(text) == text
    ids, _ = chat.train_ids([Turn("user", text), Turn("assistant", text)], [])
    added = {chat.tokenizer.convert_tokens_to_ids(word) for word in ("\n\n", "<table>", "user")}
    assert added <= set(ids)


ENDS = {
    "llama3": ("<|end_of_text|>", "<|eot_id|>"),
    "qwen_base": ("<|endoftext|>", "<|im_end|>"),
    "added_without_special": ("<|endoftext|>", "<|im_end|>"),
    "gemma": ("<eos>", "<end_of_turn>"),
    "mistral": ("</s>",),
    "llava": ("</s>",),
    "vicuna": ("</s>",),
    "glm": ("<|endoftext|>", "<|user|>"),
    "word_piece": ("[SEP]",),
}


@pytest.mark.parametrize("kind", ENDS)
def test_the_tokens_that_end_an_answer_are_the_templates_and_the_tokenizers(kind: str) -> None:
    chat = made(kind)
    assert set(chat.end_ids) == {chat.tokenizer.convert_tokens_to_ids(name) for name in ENDS[kind]}
    turns = [Turn("user", "x"), Turn("assistant", "a circle"), Turn("user", "y"), Turn("assistant", "red")]
    ids, labels = chat.train_ids(turns, [])
    trained = [token for token, label in zip(ids, labels, strict=True) if label != IGNORE_INDEX]
    assert sum(token in chat.end_ids for token in trained) == 2
    assert trained[-1] in chat.end_ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_what_the_template_writes(kind: str) -> None:
    chat = made(kind)
    turns = [Turn("user", "a dot"), Turn("assistant", "red"), Turn("user", "and now")]
    text = chat.tokenizer.apply_chat_template(
        [turn.to_json() for turn in turns], tokenize=False, add_generation_prompt=True
    )
    assert chat.prompt_ids(turns, []) == chat.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "text", ["{{ bos_token }}", "{% for m in messages %}x{% endfor %}", "{{ 7 * 7 }}", "{# x #}"]
)
def test_jinja_in_a_text_is_rendered_by_nobody(text: str) -> None:
    chat = made("qwen_base")
    ids, _ = chat.train_ids([Turn("user", text), Turn("assistant", f"a {text}")], [])
    assert chat.tokenizer.decode(ids).count(text) == 2


def test_the_worlds_own_image_marks_cannot_be_written(tiny_checkpoint) -> None:  # type: ignore[no-untyped-def]
    chat = Chat(AutoProcessor.from_pretrained(tiny_checkpoint))
    picture = Image.new("RGB", (64, 64), "red")
    found = []
    for text in ("a circle", "a <global-img><fake_token_around_image> <|im_start|>circle<|im_end|> <unk>"):
        turns = [Turn("user", f"<image>{text}"), Turn("assistant", text)]
        ids, _ = chat.train_ids(turns, [picture])
        found.append((chat.controls.among(ids), chat.controls.among(chat.prompt_ids(turns[:1], [picture]))))
    assert found[0] == found[1]
    assert resolve_base("world:llm").is_dir()


def test_what_a_server_is_sent_spells_no_published_control_token() -> None:
    published = (
        "<|im_start|>assistant <|im_end|> <|eot_id|> <|start_header_id|> <start_of_turn> <end_of_turn> [INST] "
        "[/INST] <<SYS>> </s> <s> <bos> <|image_pad|> <start_of_image> [IMG] <|endoftext|> <｜User｜> "
        "<end_of_utterance> <row_1_col_1> <|turn> <turn|> <|channel> <channel|> <|/det|> [THINK] [ARGS] "
        "[MODEL_SETTINGS] ]~b] ]~!b[ [e~[ [gMASK] <sop> <role> </role> [|assistant|] <seed:bos> <BOS_TOKEN> "
        "[UNUSED_TOKEN_146] <|im▁start|>"
    )
    sent = visibly_inert(published)
    assert not PUBLISHED.search(sent)
    assert sent.replace(" ", "") == published.replace(" ", "")
    assert visibly_inert("a < b and <b>c</b>, x [1] |2|") == "a < b and <b>c</b>, x [1] |2|"
