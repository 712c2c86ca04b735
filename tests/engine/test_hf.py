import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from vila2cli.engine import Engine, EngineSettings, Request, Result, ScoreRequest, hf, open_engine
from vila2cli.engine.batching import BATCH_SIZES, chunks_by_group, largest_batch
from vila2cli.engine.hf import HfEngine
from vila2cli.engine.memory import available_memory
from vila2cli.errors import Interrupted, ModelError
from vila2cli.model.chat import IGNORE_INDEX, Chat
from vila2cli.run.stopping import Stop
from vila2cli.shards.sample import Turn

Ask = Callable[..., Request]
Judge = Callable[..., ScoreRequest]


@pytest.fixture(scope="module")
def engine(random_vlm: Path) -> Engine:
    torch.set_num_threads(1)
    return open_engine("hf", random_vlm, EngineSettings(dtype="float32", batch_size=8))


def by_id(results: Iterator[Result]) -> dict[str, Result]:
    return {result.id: result for result in results}


def test_greedy_results_are_those_of_a_plain_generate(engine: Engine, random_vlm: Path, ask: Ask) -> None:
    request = ask(3)
    net = AutoModelForImageTextToText.from_pretrained(random_vlm, dtype=torch.float32).eval()
    chat = Chat(AutoProcessor.from_pretrained(random_vlm))
    ids = torch.tensor([chat.prompt_ids(request.messages, request.images)])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **chat.pixel_inputs([request.images])}
    with torch.inference_mode():
        whole = net.generate(**inputs, max_new_tokens=24, do_sample=False)
        logits = net(**(inputs | {"input_ids": whole, "attention_mask": torch.ones_like(whole)})).logits
    new = whole[0, ids.shape[1] :]
    logprobs = logits[0, ids.shape[1] - 1 : -1].log_softmax(-1).gather(-1, new[:, None])[:, 0]
    (result,) = engine.generate([request])
    assert result.text == chat.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert result.num_tokens == len(new)
    assert result.logprob_mean == pytest.approx(logprobs.mean().item(), abs=1e-5)


def test_finish_reason_and_count_include_the_end_token(engine: Engine, ask: Ask) -> None:
    results = by_id(engine.generate(ask(seed, max_new_tokens=48) for seed in range(24)))
    assert {result.finish_reason for result in results.values()} == {"stop", "length"}
    for result in results.values():
        assert (result.num_tokens == 48) == (result.finish_reason == "length")
        assert result.error is None
        assert result.logprob_mean is not None
        assert result.logprob_mean < 0


def test_texts_depend_on_the_picture(engine: Engine, ask: Ask) -> None:
    texts = {result.text for result in engine.generate(ask(seed) for seed in range(16))}
    assert len(texts) > 12


def test_results_do_not_depend_on_other_groups(engine: Engine, ask: Ask) -> None:
    requests = [ask(seed, group=f"g{seed // 10}", temperature=0.8 * (seed % 2)) for seed in range(30)]
    whole = by_id(engine.generate(requests))
    parts = by_id(engine.generate(requests[20:])) | by_id(engine.generate(requests[:20]))
    assert whole == parts


def test_sampling_does_not_depend_on_the_batch(engine: Engine, ask: Ask) -> None:
    requests = [ask(seed, temperature=1.0, top_p=0.9) for seed in range(12)]
    together = by_id(engine.generate(requests))
    for request in requests[:4]:
        (alone,) = engine.generate([request])
        assert alone.text == together[request.id].text
    (other,) = engine.generate([ask(0, temperature=1.0, top_p=0.9, seed=99)])
    assert other.text != together["0"].text


def test_odd_requests(engine: Engine, ask: Ask) -> None:
    odd = {
        "text only": ask(0, "Hello", images=()),
        "one pixel": ask(0, images=(Image.new("RGB", (1, 1)),)),
        "a line": ask(0, images=(Image.new("RGB", (2000, 2)),)),
        "two images": ask(
            0, "<image> or <image>", images=(Image.new("RGB", (64, 64)), Image.new("RGB", (9, 80)))
        ),
        "limits": ask(0, max_new_tokens=3),
        "fills the context": ask(0, "red " * 460),
        "too long": ask(0, "red " * 600),
        "a missing image": ask(0, "<image> and <image>"),
    }
    requests = [Request(**(fields(request) | {"id": name})) for name, request in odd.items()]
    results = by_id(engine.generate(requests))
    assert set(results) == set(odd)
    errors = {name: result.error for name, result in results.items() if result.error}
    assert set(errors) == {"too long", "a missing image"}
    assert "does not fit the context of 512" in str(errors["too long"])
    assert results["limits"].num_tokens == 3
    assert results["fills the context"].finish_reason == "length"
    assert results["fills the context"].num_tokens < 24


def fields(request: Request) -> dict[str, object]:
    return {name: getattr(request, name) for name in Request.__dataclass_fields__}


def test_scores_are_the_log_probabilities_of_the_trained_tokens(
    engine: Engine, random_vlm: Path, judge: Judge
) -> None:
    texts = ["red", "There is a large red star at the top left.", "a <|im_end|> b", "ring " * 60]
    requests = [judge(i, text) for i, text in enumerate(texts)]
    scores = {result.id: result for result in engine.generate(requests)}
    net = AutoModelForImageTextToText.from_pretrained(random_vlm, dtype=torch.float32).eval()
    chat = Chat(AutoProcessor.from_pretrained(random_vlm))
    for request in requests:
        turns = [*request.messages, Turn("assistant", request.text)]
        ids, labels = chat.train_ids(turns, request.images)
        trained = [i for i, label in enumerate(labels) if label != IGNORE_INDEX][:-1]  # not the end token
        inputs = {"input_ids": torch.tensor([ids]), **chat.pixel_inputs([request.images])}
        with torch.inference_mode():
            logprobs = net(**inputs).logits[0].log_softmax(-1)
        expected = [logprobs[i - 1, ids[i]].item() for i in trained]
        assert scores[request.id].token_logprobs == pytest.approx(expected, abs=1e-4)


def test_what_is_scored_together_has_logits_that_fit(
    random_vlm: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Watched(HfEngine):
        """Notes how large its logits are."""

        def _score(self, batch):  # type: ignore[no-untyped-def]
            longest = max(len(p.ids) for p in batch)
            kept = longest - min(len(p.ids) - p.num_new for p in batch) + 1
            sizes.append(len(batch) * kept * 1024 * 4)
            return super()._score(batch)

    requests = [judge(i, "red " * (1 + i % 9)) for i in range(30)]
    settings = EngineSettings(dtype="float32", batch_size=16)
    whole = {score.id: score for score in Watched("m", random_vlm, settings).generate(requests)}
    assert len(sizes) == 2
    limit = max(sizes) // 3
    sizes.clear()
    monkeypatch.setattr(hf, "_LOGITS_BYTES", limit)
    parts = {score.id: score for score in Watched("m", random_vlm, settings).generate(requests)}
    assert limit / 3 < max(sizes) <= limit
    assert len(sizes) > 2
    for key, score in parts.items():
        assert score.token_logprobs == pytest.approx(whole[key].token_logprobs, abs=1e-5)


def test_what_cannot_be_scored_says_why(engine: Engine, judge: Judge) -> None:
    requests = [
        judge(0, ""),
        judge(1, "red " * 600),
        judge(2, "fine"),
        judge(3, "x", messages=(Turn("user", "<image><image>"),)),
    ]
    results = {result.id: result for result in engine.generate(requests)}
    assert {key for key, result in results.items() if result.error} == {"0", "1", "3"}
    assert "no text" in str(results["0"].error)
    assert "do not fit the context of 512" in str(results["1"].error)
    assert len(results["2"].token_logprobs) > 0


def test_what_follows_from_a_result_stays_in_its_group(engine: Engine, ask: Ask, ladder: Any) -> None:
    groups = [
        [ask(seed, group=name) for seed in range(start, start + 5)] for name, start in (("a", 0), ("b", 9))
    ]

    def answered(requests: list[Request]) -> list[Result]:
        stream, results = ladder(requests), []
        for result in engine.generate(stream):
            results.append(result)
            if int(result.id) < 3:
                stream.push(ask(int(result.id) + 100, group="a"))
        return results

    together = answered([*groups[0], *groups[1]])
    assert together == answered(groups[0]) + answered(groups[1])
    assert [int(result.id) >= 100 for result in together] == [False] * 5 + [True] * 3 + [False] * 5


@pytest.mark.parametrize("room", [0, 1, 7, 8, 100, 383, 499, 500, 10_000])
def test_the_largest_batch_that_fits_is_found_in_few_tries(room: int) -> None:
    tries: list[int] = []

    def fits(size: int) -> bool:
        tries.append(size)
        return size <= room

    expected = max([size for size in (*BATCH_SIZES, 500) if size <= min(room, 500)], default=0)
    assert largest_batch(fits, 500) == expected
    assert len(tries) <= 5


def test_the_batch_is_as_large_as_main_memory_allows(random_vlm: Path, ask: Ask) -> None:
    class LargeModel(HfEngine):
        """Whose keys and values take a hundredth of the free memory for every sequence."""

        def _cache_bytes(self, num_tokens: int) -> int:
            return available_memory() // 100

    engine = LargeModel("m", random_vlm, EngineSettings(dtype="float32", batch_size=0))
    assert len(list(engine.generate(ask(seed, max_new_tokens=2) for seed in range(60)))) == 60
    assert engine.batch_size == 48
    assert engine.notes == ["batch size 48 (the largest that fits in memory)"]


def test_reads_only_a_bounded_way_ahead(ask: Ask) -> None:
    num_read = 0

    def stream() -> Iterator[Request]:
        nonlocal num_read
        for _ in range(1000):
            num_read += 1
            yield ask(1)

    chunks = chunks_by_group(stream(), 10, 10**9)
    assert len(next(chunks)) == 10
    assert num_read == 11
    sizes = [len(chunk) for chunk in chunks_by_group((ask(1) for _ in range(9)), 10, 3 * 64 * 64)]
    assert sizes == [3, 3, 3]


def test_out_of_memory_halves_the_batch(random_vlm: Path, ask: Ask) -> None:
    class SmallDevice(HfEngine):
        """Holds three requests at a time."""

        def _generate(self, batch):  # type: ignore[no-untyped-def]
            if len(batch) > 3:
                raise torch.OutOfMemoryError("no memory left")
            return super()._generate(batch)

    engine = SmallDevice("m", random_vlm, EngineSettings(dtype="float32", batch_size=8))
    results = by_id(engine.generate(ask(seed, max_new_tokens=4) for seed in range(11)))
    assert len(results) == 11
    assert engine.batch_size == 2
    assert engine.notes[0] == "batch size 8 (as set)"
    assert engine.notes[1:] == [f"out of accelerator memory: batch size reduced to {size}" for size in (4, 2)]


def test_a_machine_out_of_memory_halves_the_batch(random_vlm: Path, ask: Ask, judge: Judge) -> None:
    class SmallMachine(HfEngine):
        """Has no memory for more than three requests at a time."""

        def _generate(self, batch):  # type: ignore[no-untyped-def]
            return super()._generate(self._take_memory(batch))

        def _score(self, batch):  # type: ignore[no-untyped-def]
            return super()._score(self._take_memory(batch))

        def _take_memory(self, batch):  # type: ignore[no-untyped-def]
            torch.empty(2**56 if len(batch) > 3 else 1, dtype=torch.uint8)
            return batch

    plain = by_id(HfEngine("m", random_vlm, EngineSettings(batch_size=2)).generate(ask(i) for i in range(5)))
    engine = SmallMachine("m", random_vlm, EngineSettings(batch_size=8))
    assert {key: one.text for key, one in by_id(engine.generate(ask(i) for i in range(5))).items()} == {
        key: one.text for key, one in plain.items()
    }
    assert engine.notes == ["batch size 8 (as set)", "out of main memory: batch size reduced to 2"]
    scorer = SmallMachine("m", random_vlm, EngineSettings(batch_size=8))
    scores = list(scorer.generate(judge(i, "a red star") for i in range(9)))
    assert all(score.token_logprobs for score in scores)
    reduced = [f"out of main memory: batch size reduced to {size}" for size in (4, 2)]
    assert scorer.notes == ["batch size 8, fewer where their logits are above 1 GiB", *reduced]

    class NoMachine(SmallMachine):
        def _take_memory(self, batch):  # type: ignore[no-untyped-def]
            return super()._take_memory(batch * 4)

    with pytest.raises(ModelError, match="does not fit in memory"):
        list(NoMachine("m", random_vlm, EngineSettings(batch_size=8)).generate([ask(1)]))


def test_a_stage_that_is_to_stop_loads_nothing(random_vlm: Path) -> None:
    with pytest.raises(Interrupted, match="SIGUSR1"):
        open_engine("hf", random_vlm, stop=Stop("SIGUSR1"))


def test_checkpoint_defaults_do_not_decide_the_text(random_vlm: Path, ask: Ask, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(random_vlm, tmp_path / "vlm"))
    config = (folder / "generation_config.json").read_text()
    (folder / "generation_config.json").write_text(
        config.replace("{", '{\n "repetition_penalty": 5.0, "do_sample": true, "top_k": 3,', 1)
    )
    settings = EngineSettings(dtype="float32")
    (changed,) = open_engine("hf", folder, settings).generate([ask(5)])
    (plain,) = open_engine("hf", random_vlm, settings).generate([ask(5)])
    assert changed == plain


def test_unusable_checkpoints_are_one_line_errors(random_vlm: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(random_vlm, tmp_path / name))

    (copy("cut") / "model.safetensors").write_bytes((random_vlm / "model.safetensors").read_bytes()[:5000])
    weights = load_file(random_vlm / "model.safetensors")
    copy("lacking")
    lacking = {k: v for k, v in weights.items() if "connector" not in k}
    save_file(lacking, tmp_path / "lacking" / "model.safetensors", metadata={"format": "pt"})
    (copy("odd") / "config.json").write_text('{"model_type": "nothing-we-know"}')
    (copy("empty") / "model.safetensors").unlink()
    (copy("bare") / "config.json").unlink()
    expected = {
        "cut": "cannot be loaded",
        "lacking": "lacks 1 weights",
        "odd": "cannot be loaded",
        "empty": "no \\*.safetensors",
        "bare": "no config.json",
        "absent/deep/folder": "does not exist",
    }
    for name, message in expected.items():
        with pytest.raises(ModelError, match=message) as caught:
            open_engine("hf", tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_model_whose_numbers_overflow_gives_no_captions(random_vlm: Path, ask: Ask, tmp_path: Path) -> None:
    folder = tmp_path / "overflowed"
    shutil.copytree(random_vlm, folder)
    weights = load_file(folder / "model.safetensors")
    norm = next(name for name in weights if name.endswith("text_model.norm.weight"))
    save_file(weights | {norm: weights[norm] * float("nan")}, folder / "model.safetensors", {"format": "pt"})
    engine = open_engine("hf", folder, EngineSettings(dtype="float32", batch_size=2))
    for temperature in (0.0, 0.7):
        results = list(engine.generate(ask(number, temperature=temperature) for number in range(3)))
        assert [result.text for result in results] == [""] * 3
        assert all("log-probabilities that are no numbers" in (result.error or "") for result in results)
