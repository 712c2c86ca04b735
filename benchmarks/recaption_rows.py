"""The rows of recaption.py: each captions the same images in its own way and says how long it took."""

import io
import json
import os
import random
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from vila2cli.shards.tarwriter import TarWriter

PROMPT_ID = "long-v1"


@dataclass(frozen=True, slots=True)
class Work:
    """What every row is given."""

    model: str
    data: str
    num_images: int
    new_tokens: int
    batch_size: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Measured:
    """One row, timed once. `num_tokens` is 0 where the tool does not say; `load_s` is not part of `seconds`."""

    num_images: int
    num_tokens: int
    seconds: float
    load_s: float


# The data: JPEGs in tars.


def write_data(folder: Path, pictures: Sequence[bytes], *, num_shards: int) -> None:
    per_shard = -(-len(pictures) // num_shards)
    for shard in range(num_shards):
        numbers = range(shard * per_shard, min(len(pictures), (shard + 1) * per_shard))
        with TarWriter(folder / f"{shard:05}.tar") as tar:
            for number in numbers:
                tar.write_sample(f"{number:08}", {"jpg": pictures[number], "txt": b"some discs"})


def discs(num_images: int, side: int) -> list[bytes]:
    """Pictures of discs, all of one size."""
    return [jpeg(number, side) for number in range(num_images)]


def jpeg(number: int, side: int) -> bytes:
    rng = random.Random(number)
    image = Image.new("RGB", (side * 4 // 3, side), tuple(rng.randrange(256) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(24):
        x, y, size = rng.randrange(image.width), rng.randrange(image.height), rng.randrange(4, side // 2)
        draw.ellipse((x, y, x + size, y + size), fill=tuple(rng.randrange(256) for _ in range(3)))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def read_tar(path: Path) -> Iterator[tuple[str, Image.Image]]:
    """Keys and decoded images, as a script by hand reads them."""
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                file = tar.extractfile(member)
                assert file is not None
                yield member.name[:-4], Image.open(io.BytesIO(file.read())).convert("RGB")


def shards(work: Work) -> list[Path]:
    return sorted(Path(work.data).glob("*.tar"))


def images(work: Work) -> list[Image.Image]:
    return [image for shard in shards(work) for _, image in read_tar(shard)][: work.num_images]


# The rows.


def prompt_text() -> str:
    from vila2cli.text.prompts import PROMPTS

    return PROMPTS[PROMPT_ID]


def chat_of(work: Work) -> Any:
    from transformers import AutoProcessor

    from vila2cli.model.chat import Chat

    return Chat(AutoProcessor.from_pretrained(work.model))


def vllm_inputs(chat: Any, pictures: list[Image.Image]) -> list[dict[str, Any]]:
    from vila2cli.shards.sample import Turn

    turns = (Turn("user", prompt_text()),)
    ids = chat.prompt_ids(turns, pictures[:1], expand=False)
    return [{"prompt_token_ids": ids, "multi_modal_data": {"image": picture}} for picture in pictures]


def open_vllm(work: Work) -> tuple[Any, Any]:
    """vLLM's `LLM` set up as the engine sets it up, and its greedy SamplingParams."""
    import torch
    from transformers import AutoConfig

    on_gpu = torch.cuda.is_available()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "1" if on_gpu else "0")
    from vllm import LLM, SamplingParams

    from vila2cli.engine import EngineSettings
    from vila2cli.engine.vllm_options import context_on, engine_options, place

    settings = EngineSettings(dtype=work.dtype, batch_size=work.batch_size, max_images=1, requests_per_image=1)  # type: ignore[arg-type]
    config = AutoConfig.from_pretrained(work.model)
    placed = place(Path(work.model), settings) if on_gpu else None
    options = engine_options(config, settings, context_on(config, settings, placed), placed)
    if not on_gpu:
        options["distributed_executor_backend"] = "uni"
    llm = LLM(work.model, **options)
    return llm, SamplingParams(temperature=0.0, max_tokens=work.new_tokens)


def raw_vllm(work: Work) -> Measured:
    start_s = time.perf_counter()
    llm, params = open_vllm(work)
    inputs = vllm_inputs(chat_of(work), images(work))
    load_s, start_s = time.perf_counter() - start_s, time.perf_counter()
    outputs = llm.generate(inputs, params, use_tqdm=False)
    seconds = time.perf_counter() - start_s
    num_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return Measured(len(outputs), num_tokens, seconds, load_s)


def shard_loop(work: Work) -> Measured:
    start_s = time.perf_counter()
    llm, params = open_vllm(work)
    chat = chat_of(work)
    out = Path(work.data).with_name("shard-loop")
    out.mkdir(exist_ok=True)
    load_s, start_s = time.perf_counter() - start_s, time.perf_counter()
    num_images = num_tokens = 0
    for shard in shards(work):
        keys, pictures = zip(*read_tar(shard), strict=True)
        outputs = llm.generate(vllm_inputs(chat, list(pictures)), params, use_tqdm=False)
        with tarfile.open(out / shard.name, "w") as tar:
            for key, output in zip(keys, outputs, strict=True):
                caption = json.dumps({"caption": output.outputs[0].text}).encode()
                member = tarfile.TarInfo(f"{key}.json")
                member.size = len(caption)
                tar.addfile(member, io.BytesIO(caption))
                num_tokens += len(output.outputs[0].token_ids)
        num_images += len(outputs)
    return Measured(num_images, num_tokens, time.perf_counter() - start_s, load_s)


def vila2(work: Work, engine: str) -> Measured:
    """The whole command, less the time until the first shard is opened (loading the model)."""
    from vila2cli.ask.fill import Annotator
    from vila2cli.settings.recipe import load_recipe
    from vila2cli.stages.recaption import recaption

    sets = {
        "recaption.engine": engine,
        "recaption.prompts": f'["{PROMPT_ID}"]',
        "recaption.max_new_tokens": str(work.new_tokens),
        "recaption.batch_size": str(work.batch_size),
        "recaption.retry_temperatures": "[]",  # a random model fails every check
        "recaption.max_reject_rate": "1.0",
        "recaption.dtype": work.dtype,
    }
    recipe = load_recipe(None, [f"{key}={value}" for key, value in sets.items()])
    loaded_s = 0.0
    run = Annotator.run

    def timed_run(self: Annotator) -> None:
        nonlocal loaded_s
        loaded_s = time.perf_counter()
        run(self)

    Annotator.run = timed_run  # type: ignore[method-assign]
    out = Path(work.data).with_name(f"layer-{engine}-{os.getpid()}")
    start_s = time.perf_counter()
    summary = recaption(recipe, shards=[work.data], model=work.model, out=out, round=1)
    end_s = time.perf_counter()
    return Measured(summary.num_in, summary.num_tokens, end_s - loaded_s, loaded_s - start_s)


def raw_hf(work: Work) -> Measured:
    import torch
    from transformers import AutoModelForImageTextToText

    from vila2cli.shards.sample import Turn

    start_s = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = AutoModelForImageTextToText.from_pretrained(work.model, dtype=work.dtype).to(device).eval()
    chat, pictures = chat_of(work), images(work)
    turns = (Turn("user", prompt_text()),)
    load_s, start_s = time.perf_counter() - start_s, time.perf_counter()
    num_tokens = 0
    with torch.inference_mode():
        for first in range(0, len(pictures), work.batch_size):
            batch = pictures[first : first + work.batch_size]
            ids = torch.tensor([chat.prompt_ids(turns, [picture]) for picture in batch], device=device)
            pixels = {
                name: value.to(device)
                for name, value in chat.pixel_inputs([[image] for image in batch]).items()
            }
            pixels["pixel_values"] = pixels["pixel_values"].to(net.dtype)
            new = net.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **pixels,
                do_sample=False,
                max_new_tokens=work.new_tokens,
            )[:, ids.shape[1] :]
            num_tokens += count_tokens(new, net.generation_config.eos_token_id)
            chat.tokenizer.batch_decode(new, skip_special_tokens=True)
    return Measured(len(pictures), num_tokens, time.perf_counter() - start_s, load_s)


def count_tokens(ids: Any, eos: int) -> int:
    """Tokens up to and with the first end token of each row."""
    is_after_end = ((ids == eos).cumsum(-1) - (ids == eos).long()) > 0
    return int((~is_after_end).sum())


def pipeline(work: Work, batch_size: int) -> Measured:
    from transformers import pipeline as open_pipeline

    start_s = time.perf_counter()
    pipe = open_pipeline("image-text-to-text", model=work.model, dtype=work.dtype)
    chats = [
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": picture}, {"type": "text", "text": prompt_text()}],
            }
        ]
        for picture in images(work)
    ]
    load_s, start_s = time.perf_counter() - start_s, time.perf_counter()
    generate = {"max_new_tokens": work.new_tokens, "do_sample": False}
    outputs = pipe(text=chats, batch_size=batch_size, return_full_text=False, generate_kwargs=generate)
    return Measured(len(outputs), 0, time.perf_counter() - start_s, load_s)


ROWS: dict[str, Callable[[Work], Measured]] = {
    "raw-vllm": raw_vllm,
    "vila2-vllm": lambda work: vila2(work, "vllm"),
    "shard-loop": shard_loop,
    "raw-hf": raw_hf,
    "vila2-hf": lambda work: vila2(work, "hf"),
    "pipeline-32": lambda work: pipeline(work, 32),
    "pipeline-1": lambda work: pipeline(work, 1),
}
