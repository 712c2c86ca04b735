"""The answer behind reasoning, in every published notation; ordinary text that holds a tag stays as it is."""

import pytest

from vila2cli.text.reasoning import answer_of, is_mark, opens_reasoning, thinks_aloud

ANSWER = "A cat sits on a mat."
THOUGHT = "The user wants a caption. No dog is there, I see a cat.\n\nSo I describe it."


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{THOUGHT}</think>{ANSWER}",
        f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}",
        f"<think>\n\n</think>\n\n{ANSWER}",
        f"{THOUGHT}\n</think>\n\n{ANSWER}",
        f"{THOUGHT}</think> {ANSWER}",
        f"<THINK>{THOUGHT}</THINK>\n{ANSWER}",
        f"<Thinking>{THOUGHT}</Thinking>{ANSWER}",
        f"<thought>{THOUGHT}</thought>{ANSWER}",
        f"<Thought>{THOUGHT}</Thought><Output>{ANSWER}</Output>",
        f"<thinking>{THOUGHT}</thinking>\n<output>{ANSWER}</output>",
        f"<reasoning>{THOUGHT}</reasoning>{ANSWER}",
        f"<seed:think>{THOUGHT}</seed:think>{ANSWER}",
        f"<mm:think>{THOUGHT}</mm:think>{ANSWER}",
        f"<ifm|think_fast>{THOUGHT}</ifm|think_fast>{ANSWER}",
        f"<think:6124c78e>{THOUGHT}</think:6124c78e>{ANSWER}",
        f"<longcat_think>{THOUGHT}</longcat_think>{ANSWER}",
        f"<analysis>{THOUGHT}</analysis>{ANSWER}",
        f"<think>{THOUGHT}</think><answer>{ANSWER}</answer>",
        f"<think>I am told to use <answer> tags</think>{ANSWER}",
        f"I am told to use the answer tag and no other text</think>\n{ANSWER}",
        f"<think>There is no other text </think><answer>{ANSWER}</answer>",
        f"<reason>{THOUGHT}</reason>{ANSWER}",
        f"<inner_monologue>{THOUGHT}</inner_monologue>{ANSWER}",
        f"<|think|>{THOUGHT}</|think|>{ANSWER}",
        f"<｜Assistant｜><think>{THOUGHT}</think>{ANSWER}<｜end▁of▁sentence｜>",
        f"<think>{THOUGHT}</think>{ANSWER}<end_of_turn>",
        f"<unused94>thought\n{THOUGHT}<unused95>{ANSWER}",  # MedGemma
        f"<|im_start|>think\n{THOUGHT}<|im_end|>\n<|im_start|>answer\n{ANSWER}<|im_end|>",  # s1
        f"## Thinking\n\n{THOUGHT}\n\n## Final Response\n\n{ANSWER}",  # HuatuoGPT-o1
        f"### Reasoning\n{THOUGHT}\n\n### Answer\n{ANSWER}",
        f"<think>{THOUGHT}</think>\n\n<response>\n{ANSWER}\n</response>",
        f"<think>{THOUGHT}</think>\n<answer>{ANSWER}",
        f"<think>{THOUGHT}</think>{ANSWER}</answer>",
        f"<think>{THOUGHT}\n<answer>{ANSWER}</answer>",
        f"<think>{THOUGHT}</think><answer><|begin_of_box|>{ANSWER}<|end_of_box|></answer>",
        f"<think>{THOUGHT}</think>Here it is: <|begin_of_box|>{ANSWER}<|end_of_box|>",
        f"<answer>{ANSWER}</answer>",
        f"<|begin_of_box|>{ANSWER}<|end_of_box|>",
        f"First I look. It is a cat.\n<answer>{ANSWER}</answer>",
        f"<caption>{ANSWER}</caption>",
        f"◁think▷{THOUGHT}◁/think▷{ANSWER}",
        f"[THINK]{THOUGHT}[/THINK]{ANSWER}",
        f"<|begin_of_thought|>{THOUGHT}<|end_of_thought|>\n\n<|begin_of_solution|>{ANSWER}<|end_of_solution|>",
        f"<|START_THINKING|>{THOUGHT}<|END_THINKING|><|START_RESPONSE|>{ANSWER}<|END_RESPONSE|>",
        f"<|START_THINKING|>{THOUGHT}<|END_THINKING|><|START_TEXT|>{ANSWER}<|END_TEXT|>",
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>",
        f"{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}",
        f"<|channel|>final<|message|>{ANSWER}",
        f"analysis{THOUGHT}assistantfinal{ANSWER}",
        f"final{ANSWER}",
        f"thought\n{ANSWER}",
        f"<|channel>thought\n{THOUGHT}<channel|>{ANSWER}<turn|>",
        f"<|open|>think<|sep|>{THOUGHT}<|close|>think<|sep|><|open|>response<|sep|>{ANSWER}<|close|>response<|sep|>",
        f"<|content_thinking|>{THOUGHT}<|end_message|><|message_model|><|content_text|>{ANSWER}<|end_message|>",
        f"to=self<|message|>{THOUGHT}<|eom|>to=user<|message|>{ANSWER}<|eot|>",
        f"Here is my thought process:\n{THOUGHT}\n\nHere is my response:\n{ANSWER}",
        f"Here are my reasoning steps:\n{THOUGHT}\n[BEGIN FINAL RESPONSE]\n{ANSWER}\n[END FINAL RESPONSE]",
        f"<SUMMARY>{THOUGHT}</SUMMARY>\n\n<CAPTION>A pet.</CAPTION>\n\n<REASONING>{THOUGHT}</REASONING>\n\n"
        f"<CONCLUSION>{ANSWER}</CONCLUSION>",
        f"### Image Description:\nA pet.\n\n### Let's think step by step.\n\n### Step 1:\n{THOUGHT}\n\n"
        f"### The final answer is: {ANSWER}",
        f"{THOUGHT}\n\n**Final Answer**\n\n{ANSWER}",
        f"<|thinking|>{THOUGHT}<|/thinking|>{ANSWER}",
        f"[REASONING]{THOUGHT}[/REASONING]{ANSWER}",
        f"Reasoning: {THOUGHT}\nAnswer: {ANSWER}",
        f"**Thought process:**\n{THOUGHT}\n\n**Final answer:** {ANSWER}",
        f"\ufeff<think>{THOUGHT}</think>{ANSWER}",
        f"<|assistant|>\n<think>{THOUGHT}</think>{ANSWER}<|im_end|>",
        f"<think>{THOUGHT}</thinking>{ANSWER}",
        f"<think>{THOUGHT} So I copy the word</think>{ANSWER}",
        f"{THOUGHT} So I copy the text</think>{ANSWER}",
        f"<think>one</think>Wait.<think>{THOUGHT}</think>{ANSWER}",
        f"<|im_start|>assistant\n<think>{THOUGHT}</think>{ANSWER}",
        f"Sure!\n<think>{THOUGHT}</think>{ANSWER}",
        f"A quick look.\n<think>\n{THOUGHT}\n</think>\n{ANSWER}",
        f'<think>The sign says "</think>", so I quote it.</think>{ANSWER}',
        f"<think>{THOUGHT} I will put it in <answer> </answer> tags.</think>{ANSWER}",
    ],
)
def test_the_answer_stands_behind_the_reasoning(text: str) -> None:
    found = answer_of(text)
    assert (found.text, found.has_reasoning, found.is_cut) == (ANSWER, True, False)
    assert answer_of(ANSWER) == answer_of(found.text)


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{THOUGHT}",
        f"<think>\n{THOUGHT} I will put it in <answer> tags, so",
        f"<THINKING>{THOUGHT}",
        f"◁think▷{THOUGHT}",
        f"[THINK]{THOUGHT}",
        f"<|begin_of_thought|>{THOUGHT}",
        f"<|START_THINKING|>{THOUGHT}",
        f"<|channel|>analysis<|message|>{THOUGHT}",
        f"analysis{THOUGHT}",
        f"<|channel>thought\n{THOUGHT}",
        f"<seed:think>{THOUGHT}",
        f"Here is my thought process:\n{THOUGHT}",
        f"Here are my reasoning steps:\n{THOUGHT}",
        f"<SUMMARY>{THOUGHT}</SUMMARY>\n\n<CAPTION>A pet",
        f"<think>a</think>\n<think>{THOUGHT}",
    ],
)
def test_reasoning_that_was_cut_off_has_no_answer(text: str) -> None:
    for reached_limit in (True, False):
        found = answer_of(text, reached_limit=reached_limit)
        assert (found.text, found.is_cut) == ("", True)


def test_an_end_at_the_limit_right_behind_the_reasoning_is_a_cut() -> None:
    assert answer_of(f"<think>{THOUGHT}</think>\n", reached_limit=True).is_cut
    ended = answer_of(f"<think>{THOUGHT}</think>\n")
    assert (ended.text, ended.is_cut) == ("", False)


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        'A neon sign that reads "<think>" hangs in a shop.',
        'A neon sign that reads "</think>" hangs in a shop.',
        "A neon sign that reads </think> hangs in a shop.",
        "The slide explains the `<think>` and `</think>` tags of a model.",
        'The page shows the XML "<answer>42</answer>".',
        "A screen shows <answer>42</answer> in green letters.",
        "A page of code ends in </answer>",
        "A terminal with this code:\n```\n<think>\nhello\n</think>\n```\nA hand points at it.",
        "A page of HTML:\n<div>\n<thinking>x</thinking>\n</div>",
        "The slide shows the result \\boxed{42} in red.",
        "The final equation is $\\boxed{E=mc^2}$.",
        "Analysis of a graph with final results.",
        "The assistant finally hands over the tool; an assistant final exam lies on the table.",
        "finally, a cat",
        "A worksheet.\nAnswer: 42",
        "Thinking man: a statue by Rodin.",
        "[Thoughts] is the title of the book.",
        "[Analysis] A chart of prices.",
        "A form with [THIN] and [INST] printed on it.",
        "A score of 3 < 4, a heart <3 and an arrow ->.",
        "Here is my dog.",
        "<p>A cat</p>",
        "The keyboard reads <|im_end|>",
        "So the whiteboard has \\boxed{42}",
        "The proof ends with $\\boxed{x = 5}$",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    found = answer_of(text)
    assert (found.text, found.has_reasoning, found.is_cut) == (text, False, False)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>No. There is no dog.</think>Yes", "Yes"),
        ("Is there a dog? Not here. No.\n</think>\n\nYes.", "Yes."),
        ("\\boxed{B}", "B"),
        ("<think>x</think>\n\nThe answer is \\boxed{\\text{Yes}}.", "Yes"),
        ("So, the answer is D.\n\n**Final Answer**\n\n\\[ \\boxed{D} \\]", "D"),
        ("The answer is <|begin_of_box|>B<|end_of_box|>.", "B"),
        ("A sign reads <|begin_of_box|>STOP<|end_of_box|> in red.", "A sign reads STOP in red."),
        ("So the final answer is <answer>yes</answer>", "yes"),
        ('<think>hm</think>{"better": "A"}', '{"better": "A"}'),
        ('<think>hm</think>The code says "</think>".', 'The code says "</think>".'),
        ("Yes<|im_end|>", "Yes"),
        ("No.</s>", "No."),
        ("No<end_of_turn>\n", "No"),
        ("Reasoning: no dog? I see one.\n\\boxed{\\text{Yes}}", "Yes"),
        ("Let me look. There is no dog.\n\n$\\boxed{No}$", "No"),
        ("No dog is there. So, it is \\boxed{No}.", "No"),
    ],
)
def test_short_answers(text: str, answer: str) -> None:
    assert answer_of(text).text == answer


def test_what_a_template_opens_is_known_from_its_prompt() -> None:
    assert opens_reasoning("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n") == "<think>"
    assert opens_reasoning("<|im_start|>assistant\n<think>\n\n</think>\n\n") == ""
    assert opens_reasoning("<|im_start|>user\nSay <think><|im_end|>\n<|im_start|>assistant\n") == ""
    assert opens_reasoning("") == ""


def test_marks_among_special_tokens() -> None:
    marks = (
        "[THINK]",
        "[/THINK]",
        "</think>",
        "<|channel|>",
        "<|message|>",
        "<|END_THINKING|>",
        "<|begin_of_box|>",
    )
    assert all(map(is_mark, marks))
    assert not any(map(is_mark, ("<|im_end|>", "</s>", "<image>", "<pad>", "<|eot_id|>")))


def test_thinking_aloud() -> None:
    for text in (
        "Okay, let's see. The image shows",
        "The user wants a caption.",
        "So, I need to describe",
        "Got it, let's look at",
        "Hmm, the user asks",
        "We need to answer",
    ):
        assert thinks_aloud(text)
    for text in (
        ANSWER,
        "The users of a gym lift weights.",
        "Let it snow, says a sign.",
        "I see a cat.",
        "A user manual",
    ):
        assert not thinks_aloud(text)


def test_real_captions_hold_no_reasoning(real_captions: list[str]) -> None:
    for text in real_captions:
        found = answer_of(text, reached_limit=True)
        assert (found.text, found.has_reasoning, found.is_cut) == (text.strip(), False, False)
        assert not thinks_aloud(text)


@pytest.mark.parametrize("mark", ["<think>", "</think>", "<answer>", "<answer>a</answer>", "```<think>"])
def test_a_model_that_repeats_a_mark_is_read_in_bounds(mark: str) -> None:
    """Time that grows with the square of the marks would be a minute."""
    assert len(answer_of(mark * 5_000).text) <= 5_000 * len(mark)
