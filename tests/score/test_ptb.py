"""Words as PTBTokenizer 3.4.1 of pycocoevalcap 1.2 cuts them: every line below is that program's output."""

import pytest

from vila2cli.score.cider import CIDER
from vila2cli.score.ptb import tokenise, tokenise_all
from vila2cli.score.scorer import Reference, Scored

WORDS = (
    (
        "the z range is 0 to .3, from -300 to +40 km (at -.5, +1.5)",
        "the z range is 0 to .3 from -300 to +40 km -lrb- at -.5 +1.5 -rrb-",
    ),
    ("@name and #tag, a@b.com, #1", "@name and #tag a@b.com, # 1"),
    (
        "Mr. J. K. Rowling and C. Robert O\u2019Dell of the St. Louis Univ.",
        "mr. j. k. rowling and c. robert o\u2019dell of the st. louis univ.",
    ),
    (
        "it\u2019s \u201cquoted\u201d, the dog\u2019s; don\u2019t, can't, I\u2019m, they'd've",
        "it 's quoted the dog 's do n't ca n't i 'm they 'd 've",
    ),
    ("point A. The end of B. To", "point a the end of b. to"),
    ("The symbol z.", "the symbol z."),
    ("5'10\" tall, 6' wide, '90s, the 60's, rock 'n' roll", "5 10 tall 6 wide '90s the 60 's rock 'n' roll"),
    (
        "o\u2019clock O'Neill d'Artagnan l'oeil Hawai\u2019i n\u2019diaye ma'am y'all",
        "o\u2019clock o'neill d'artagnan l'oeil hawai\u2019i n\u2019diaye ma'am y' all",
    ),
    (
        "http://cocodataset.org/a/b.html, www.foo.com/bar and foo.org.",
        "http://cocodataset.org/a/b.html www.foo.com/bar and foo.org",
    ),
    ("nasa/cxc/isdc/l.pavan and/or w/o km/h 24/7", "nasa/cxc/isdc / l.pavan and/or w/o km/h 24/7"),
    ("1/2 cup, 3 1/2 cups, \xbd, 3\xbd, \u2153, \u215b", "1/2 cup 3 1/2 cups 1/2 3 1/2 1/3 \u215b"),
    ("$5 US$5 \xa33 \u20ac4 5\xa2 \xa56 #7 50%", "$ 5 us$ 5 # 3 $ 4 5 cents \xa5 6 # 7 50 %"),
    ("(800) 555-1234, 555-1234, +49 89 1234", "-lrb-800-rrb- 555-1234 555-1234 +49 89 1234"),
    ("16:9 at 10:30am, 10 a.m., 12/25/2014, 2014-08-27", "16:9 at 10:30 am 10 a.m. 12/25/2014 2014-08-27"),
    ("20\xb0C, 90\xb0, 5x7, 3.5-inch, 1.1-1.6, 10,000km", "20 \xb0 c 90 \xb0 5x7 3.5-inch 1.1-1 .6 10,000 km"),
    ("wait... what?! no!!! a\u2026b x.... Foo .. y", "wait what ?! no !!! a b x. foo y"),
    (
        "a--b a\u2014b a \u2013 b --- ----- mid-1990s 18th\u201319th non-U.S.",
        "a b a b a b ----- mid-1990s 18th 19th non-u.s.",
    ),
    ("[a] {b} (c) <d> <3 << -> =>", "-lsb- a -rsb- -lcb- b -rcb- -lrb- c -rrb- <d> < 3 << > = >"),
    ("&amp; &lt; &quot; &mdash; AT&amp;T M&M's B+W C++ c#", "& < at&t m&m 's b+w c++ c#"),
    (
        "snake_case scene_0.png photo.jpg data-1.json 444.jpg",
        "snake_case scene_0 png photo.jpg data-1 json 444.jpg",
    ),
    ("a caf\xe9-bar, na\xefve-x", "a caf\xe9-bar na\xefve-x"),
    (
        "\u4e2d\u6587\uff0c\u65e5-\u30c6 \u043f\u0440-\u043c",
        "\u4e2d\u6587 \uff0c \u65e5-\u30c6 \u043f\u0440-\u043c",
    ),
    (
        "\u2605 \u2606 \u2192 \u2022 \xa9 \u2122 \xb1 \xd7 \u221a \U0001f642",
        "\u2605 \u2606 \u2192 \u2022 \xa9 \u2122 \xb1 \xd7 \u221a",
    ),
    ("cannot gonna 'tis 'twas gimme dunno", "can not gon na 't is 't was gim me dunno"),
    ("soft\xadhyphen a\xa0b thin\u2009space a\u2011b", "softhyphen a b thin space a\u2011b"),
    (
        "No. 5 and no. x, fig. 3, p. 5, vs. etc. Inc. Wash. wash. ill.",
        "no. 5 and no x fig. 3 p. 5 vs. etc. inc. wash. wash ill",
    ),
    (":) ^_^ :-( T_T", ":-rrb- ^_^ :--lrb- t_t"),
    ("dogs' bowls, James' and James's", "dogs bowls james and james 's"),
    ("a* **b** \\* ~5 x=y a^b a|b", "a * ** b ** \\* ~ 5 x = y a ^ b a | b"),
    ("word., other.; third: end.", "word. other. third end"),
    ("The end etc.", "the end etc."),
    ("", ""),
    ("   ", ""),
    ("\u201cELVIS\u2019\u201d a\u2018\u2019b \xabq\xbb \u201eq\u201c", "elvis ''' a `' b q \u201e q"),
    ("A&W 1,2,3 1, 2 a,b a.b a!b a?b", "a&w 1,2,3 1 2 a b a.b a!b a?b"),
    ("x.com/ab and a.com/b, www.a-b.io/cd", "x.com/ab and a.com / b www.a-b.io/cd"),
    ("m\xb2 10\u207b\xb2\xb3 x\u2081\u2082", "m \xb2 10 \u207b\xb2\xb3 x \u2081\u2082"),
    ("Dec.V Mt.Foo Ph.D.s vT. wASH. Thurs. sun.", "dec. v mt.foo ph.d. s vt. wash thurs. sun"),
    ("Qur'an Siglings'Edu Ha'L X'ab fo'c'sle j'ai", "qur an siglings edu ha'l x'ab fo c sle j' ai"),
    ("anti- pro- co- 2/2-94 1/2-3 a/b-c-d-e", "anti- pro- co 2/2-94 1/2 -3 a/b-c-d e"),
    ("B. <b> x, A. <3, C. Mr. D, E. MR x, F. To", "b <b> x a. < 3 c mr. d e. mr x f. to"),
    ("foo:( :Dx (-x) -_- <a b='c d'> <a,b> ^^", "foo :-lrb- dx -lrb--x-rrb- -_- <a b='c d'> < a b > ^ ^"),
    ("-LRB- -RRB- S&P-500 C.D.s pro- Cap'n c'est", "-lrb- -rrb- s&p-500 c.d.s pro- cap'n c'est"),
)


@pytest.mark.parametrize(("caption", "words"), WORDS)
def test_words_are_those_of_the_java_program(caption, words):
    assert " ".join(tokenise(caption)) == words


def test_captions_are_read_one_after_the_other():
    captions = ["The axis is B.", "The other", "The axis is B.", "to the left"]
    assert [words[-1] for words in tokenise_all(captions)] == ["b", "other", "b.", "left"]
    assert [words[-1] for words in tokenise_all(captions[::-1])] == ["left", "b", "other", "b."]
    texts = [("B.", "B."), ("The b", "The b")]
    scored = [Scored(CIDER.score(text, Reference(answers=(r,))), {}, text, (r,)) for text, r in texts]
    assert CIDER.rows(scored)[0]["score"] == 0.0  # "b" is in both images, so it weighs nothing


def test_a_long_text_without_spaces_ends_soon():
    assert len(tokenise("a," * 3000)) == 3000
    assert len(tokenise("\N{CJK UNIFIED IDEOGRAPH-4E2D}\N{FULLWIDTH COMMA}" * 2000)) == 4000
