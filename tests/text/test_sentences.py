"""Captions in pieces that a short context takes whole: nothing lost, nothing too long."""

from hypothesis import given
from hypothesis import strategies as st

from vila2cli.text.sentences import sentence_pieces


def words_fit(text: str, limit: int = 6) -> bool:
    return len(text.split()) <= limit


def test_sentences_that_fit_stay_whole() -> None:
    pieces = sentence_pieces("A red circle. Two small stars are above it!\nstock photo", words_fit)
    assert pieces.texts == ("A red circle.", "Two small stars are above it!", "stock photo")
    assert pieces.num_split == 0


def test_a_long_sentence_is_split_behind_a_clause() -> None:
    text = "A dog, black and white, runs after a ball that someone threw. It rains."
    pieces = sentence_pieces(text, words_fit)
    assert pieces.texts == ("A dog, black and white,", "runs after a ball that someone", "threw.", "It rains.")
    assert pieces.num_split == 1


def test_a_sentence_without_spaces_is_split_between_characters() -> None:
    pieces = sentence_pieces("红色的圆形在左上角蓝色的星形在右下角", lambda text: len(text) <= 7)
    assert "".join(pieces.texts) == "红色的圆形在左上角蓝色的星形在右下角"
    assert all(len(piece) <= 7 for piece in pieces.texts)
    assert pieces.num_split == 1


def test_a_character_that_never_fits_ends_the_splitting() -> None:
    assert sentence_pieces("abc", lambda text: False).texts == ("a", "b", "c")


@given(st.text(alphabet="ab ,.;\n红", max_size=80), st.integers(2, 12))
def test_nothing_is_lost_and_everything_fits(text: str, limit: int) -> None:
    pieces = sentence_pieces(text, lambda piece: len(piece) <= limit)
    assert "".join("".join(pieces.texts).split()) == "".join(text.split())
    assert all(0 < len(piece) <= limit for piece in pieces.texts)
