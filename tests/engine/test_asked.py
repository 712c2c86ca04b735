"""What recipes ask of every engine beside the prompt: template arguments, system prompt, stops, sampling."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from chat_server import Server, completion, problem
from tiny_vlm import picture
from vila2cli.engine import Engine, EngineSettings, Request, Result, open_engine
from vila2cli.engine.asking import chat_for
from vila2cli.engine.hf import HfEngine
from vila2cli.errors import Interrupted, ModelError
from vila2cli.model.chat import Chat
from vila2cli.run.stopping import Stop
from vila2cli.settings import ApiSettings, AskedSettings
from vila2cli.shards.sample import Turn

Ask = Callable[..., Request]
SETTINGS = EngineSettings(dtype="float32", batch_size=8)
ENGINES = ["hf", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.filterwarnings("ignore")])]


def opened(kind: str, folder: Path, **asked: Any) -> Engine:
    torch.set_num_threads(1)
    return open_engine(kind, folder, replace(SETTINGS, asked=AskedSettings(**asked)))


def by_id(results: Iterator[Result]) -> dict[str, Result]:
    return {result.id: result for result in results}


@pytest.fixture(scope="module")
def thinking_vlm(random_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, with a template that has an argument and refuses system prompts."""
    folder = shutil.copytree(random_vlm, tmp_path_factory.mktemp("thinking") / "vlm")
    path = folder / "chat_template.jinja"
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    thought = "{% if enable_thinking is defined and not enable_thinking %}a red ring {% endif %}"
    path.write_text(refusal + path.read_text() + thought)
    return folder


@pytest.mark.parametrize("kind", ENGINES)
def test_template_arguments_reach_the_prompt(kind: str, thinking_vlm: Path, ask: Ask) -> None:
    """The argument writes a text at the end of the prompt; the answer is as to a prompt that ends so."""
    requests = [ask(seed) for seed in range(4)]
    plain = by_id(opened(kind, thinking_vlm).generate(requests))
    asked = by_id(opened(kind, thinking_vlm, chat_template={"enable_thinking": False}).generate(requests))
    net = AutoModelForImageTextToText.from_pretrained(thinking_vlm, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(thinking_vlm)
    for seed in range(4):
        content = [{"type": "image"}, {"type": "text", "text": "Describe the image in details."}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, enable_thinking=False
        )
        inputs = processor(text=[text], images=[[picture(seed)]], return_tensors="pt")
        with torch.inference_mode():
            ids = net.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert asked[str(seed)].text == processor.decode(ids, skip_special_tokens=True).strip()
    assert any(asked[key].text != plain[key].text for key in plain)


def test_an_argument_that_the_template_does_not_have_is_refused(thinking_vlm: Path) -> None:
    with pytest.raises(ModelError, match=r"no argument 'enable_thinkin'.*did you mean enable_thinking"):
        opened("hf", thinking_vlm, chat_template={"enable_thinkin": False})


def test_a_system_prompt_opens_every_conversation(random_vlm: Path, ask: Ask) -> None:
    request = ask(1)
    asked = replace(request, messages=(Turn("system", "Be brief."), *request.messages))
    (told,) = opened("hf", random_vlm, system="Be brief.").generate([request])
    (own,) = opened("hf", random_vlm, system="Another.").generate([asked])
    (plain,) = opened("hf", random_vlm).generate([request])
    assert told == own
    assert told.text != plain.text


@pytest.mark.parametrize(("template", "why"), [("thinking_vlm", "refuses"), ("deaf_vlm", "leaves out")])
def test_a_template_without_system_prompts_is_told_of(
    template: str, why: str, random_vlm: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if template == "deaf_vlm":
        folder = shutil.copytree(random_vlm, tmp_path / "vlm")
        path = folder / "chat_template.jinja"
        deaf = path.read_text().replace(
            "{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"
        )
        path.write_text(deaf)
    else:
        folder = request.getfixturevalue(template)
    with pytest.raises(ModelError, match=f"chat template {why} a system prompt"):
        opened("hf", folder, system="Be brief.")


@pytest.mark.parametrize("kind", ENGINES)
def test_a_stop_ends_the_answer_and_is_not_part_of_it(kind: str, random_vlm: Path, ask: Ask) -> None:
    requests = [ask(seed, temperature=1.0 * (seed % 2)) for seed in range(12)]
    plain = by_id(opened(kind, random_vlm).generate(requests))
    stops = [plain["0"].text[5:8], plain["2"].text[10:11] or "e", "red"]
    asked = by_id(opened(kind, random_vlm, stop=tuple(stops)).generate(requests))
    num_cut = 0
    for key, result in asked.items():
        ends = [(plain[key].text.find(stop) + len(stop), stop) for stop in stops if stop in plain[key].text]
        if not ends:
            assert result == plain[key]
            continue
        num_cut += 1
        end, stop = min(ends)
        assert result.text == plain[key].text[: end - len(stop)].strip()
        assert result.finish_reason == "stop"
        assert result.num_tokens <= plain[key].num_tokens
        assert result.logprob_mean is not None
    assert num_cut > 2
    assert asked["0"].num_tokens < plain["0"].num_tokens


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_engines_agree_on_stops_and_penalties(random_vlm: Path, ask: Ask) -> None:
    requests = [ask(seed, max_new_tokens=32) for seed in range(16)]
    asked: dict[str, Any] = {"stop": (" a", "e"), "repetition_penalty": 1.3, "system": "Be brief."}
    ours = by_id(opened("hf", random_vlm, **asked).generate(requests))
    theirs = by_id(opened("vllm", random_vlm, **asked).generate(requests))
    for key, one in ours.items():
        assert (one.text, one.num_tokens, one.finish_reason) == (
            theirs[key].text,
            theirs[key].num_tokens,
            theirs[key].finish_reason,
        )
        assert one.logprob_mean == pytest.approx(theirs[key].logprob_mean, abs=1e-4)


def test_a_penalty_is_that_of_transformers_whatever_it_is_batched_with(random_vlm: Path, ask: Ask) -> None:
    """Padding is no part of the prompt: rows of other lengths give what each gives alone."""
    requests = [ask(seed, "Describe the image. " + "red ring " * seed) for seed in range(6)]
    results = by_id(opened("hf", random_vlm, repetition_penalty=1.4).generate(requests))
    net = AutoModelForImageTextToText.from_pretrained(random_vlm, dtype=torch.float32).eval()
    chat = Chat(AutoProcessor.from_pretrained(random_vlm))
    for request in requests:
        ids = torch.tensor([chat.prompt_ids(request.messages, request.images)])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            **chat.pixel_inputs([request.images]),
        }
        with torch.inference_mode():
            whole = net.generate(**inputs, max_new_tokens=24, do_sample=False, repetition_penalty=1.4)
            logits = net(**(inputs | {"input_ids": whole, "attention_mask": torch.ones_like(whole)})).logits
        new = whole[0, ids.shape[1] :]
        logprobs = logits[0, ids.shape[1] - 1 : -1].log_softmax(-1).gather(-1, new[:, None])[:, 0]
        result = results[request.id]
        assert result.text == chat.tokenizer.decode(new, skip_special_tokens=True).strip()
        assert result.logprob_mean == pytest.approx(logprobs.mean().item(), abs=1e-5)
    plain = by_id(opened("hf", random_vlm).generate(requests))
    assert any(plain[key].text != results[key].text for key in plain)


def test_a_signal_ends_an_answer_at_its_next_token(random_vlm: Path, ask: Ask) -> None:
    stop, steps, doings = Stop(), [], []
    engine = HfEngine("m", random_vlm, SETTINGS, stop)

    def forward(*_: Any) -> None:
        steps.append(1)
        if len(steps) == 3:
            stop.reason = "SIGTERM"

    stop.on_beat = doings.append
    engine._net.register_forward_hook(forward)
    with pytest.raises(Interrupted, match="SIGTERM"):
        list(engine.generate([ask(1, max_new_tokens=200, temperature=1.0)]))
    assert len(steps) == 3
    assert doings == [f"token {number} of 200 at most, 1 at once" for number in (1, 2)]


def asking(server: Server, **asked: Any) -> Engine:
    settings = EngineSettings(api=ApiSettings(base_url=server.url, model="m"), asked=AskedSettings(**asked))
    return open_engine("api", "", settings)


def test_a_server_is_sent_what_it_has_words_for(serve: Callable[..., Server], ask: Ask) -> None:
    server = serve(lambda body, number: completion())
    asked: dict[str, Any] = {
        "chat_template": {"enable_thinking": False},
        "system": "Be brief.",
        "stop": ("\n",),
        "top_k": 20,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "max_pixels": 50_000,
    }
    (result,) = asking(server, **asked).generate([ask(1)])
    assert result.error is None
    (body,) = server.bodies
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["mm_processor_kwargs"] == {"max_pixels": 50_000}
    assert (body["stop"], body["top_k"], body["min_p"], body["repetition_penalty"]) == (["\n"], 20, 0.1, 1.1)
    list(asking(server).generate([ask(1)]))
    assert not {"stop", "chat_template_kwargs", "mm_processor_kwargs"} & set(server.bodies[1])


def test_a_server_that_does_not_take_what_is_set_ends_the_stage(serve: Callable[..., Server], ask: Ask) -> None:
    server = serve(lambda body, number: problem(400, "unknown field: top_k"))
    with pytest.raises(ModelError, match=r"does not take top_k as set: .*unknown field"):
        list(asking(server, top_k=5).generate([ask(1)]))
    api = ApiSettings(base_url="https://api.openai.com/v1", model="m")
    asked = AskedSettings(chat_template={"a": 1}, min_p=0.5)
    with pytest.raises(ModelError, match="takes no chat_template_kwargs, min_p"):
        open_engine("api", "", EngineSettings(api=api, asked=asked))


def test_models_of_one_resolution_refuse_bounds_of_pixels(random_vlm: Path) -> None:
    with pytest.raises(ModelError, match=r"Idefics3\w* has no min_pixels and max_pixels.*data.max_pixels"):
        opened("hf", random_vlm, max_pixels=100)


@pytest.mark.torchvision
def test_pictures_are_scaled_as_the_image_processor_scales_them(zoo: Callable[[str], Path], ask: Ask) -> None:
    folder = zoo("qwen2_vl")
    size = {"shortest_edge": 32 * 32, "longest_edge": 48 * 48}
    theirs = AutoProcessor.from_pretrained(folder, size=size)
    chat = chat_for(
        AutoProcessor.from_pretrained(folder), AskedSettings(min_pixels=32 * 32, max_pixels=48 * 48)
    )
    for shape in ((300, 200), (8, 9), (40, 40)):
        image = picture(1).resize(shape)
        expected = theirs.image_processor(images=[image], return_tensors="pt")
        assert torch.equal(chat.pixel_inputs([[image]])["pixel_values"], expected["pixel_values"])
    one = ask(1, images=(picture(1).resize((300, 200)),))
    texts = {
        next(opened("hf", folder, **asked).generate([one])).text
        for asked in ({}, {"max_pixels": 48 * 48}, {"max_pixels": 32 * 32, "min_pixels": 100})
    }
    assert len(texts) > 1
