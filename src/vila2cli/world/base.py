"""The two bases every round starts from, pretrained apart from each other: a tower on pictures, an LLM on text.

The LLM learns to read: sixteen words say what is where, and it describes them, answers questions
and compares captions. The tower learns to see: at each of sixteen places it must tell the word that
belongs there. Neither has met the other; joining them is what `vila2 pretrain` does with a new
projector, as a SigLIP tower and a Llama have to be joined.
"""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from vila2cli.image import decode_image
from vila2cli.progress import Progress
from vila2cli.sample import Turn
from vila2cli.text.prompts import PROMPTS
from vila2cli.world import language
from vila2cli.world.draw import draw_picture, encode_jpeg
from vila2cli.world.scenes import COLOURS, LETTERS, PLACES, SHAPES, SIDE, SIZES, Scene, draw_scene

LAYOUT_WORDS = (*SIZES, *COLOURS, *SHAPES, *LETTERS, *language.MARKS.values(), ".")
READING_SKILLS = ("existence", "colour", "shape", "size", "count", "place", "ocr")
"""What the base LLM has read questions about; relations and boxes it has to learn later."""

log = logging.getLogger(__name__)


def base_folder(name: str) -> Path:
    """The folder of a shipped base: "tower" or "llm"."""
    return Path(__file__).parent / "bases" / name


def build_bases(
    out: Path, *, seed: int = 0, tower_steps: int = 1500, llm_steps: int = 1600
) -> dict[str, float]:
    """Make both bases from nothing and write them to `out/tower` and `out/llm`.

    Returns the held-out accuracy of the tower, the final loss of the LLM and the seconds of each.
    """
    figures: dict[str, float] = {}
    for name, build, steps in (("tower", build_tower, tower_steps), ("llm", build_llm, llm_steps)):
        start = time.monotonic()
        figures |= build(out / name, seed=seed, steps=steps)
        figures[f"{name}_seconds"] = time.monotonic() - start
    return figures


def reading_turns(random: Random) -> list[Turn]:
    """A text-only conversation about a scene given as sixteen words instead of as a picture.

    A quarter each: repeating the words (which is what makes looking things up emerge), questions,
    description with questions, and description or comparison of two captions.
    """
    scene = draw_scene(random, "base")
    words = " ".join(language.layout(scene))
    kind = random.randrange(4)
    skills = random.sample(READING_SKILLS, 6 if kind == 1 else 2)
    if kind == 0:
        turns = [Turn("user", "Read the layout."), Turn("assistant", words)]
    elif kind == 3 and random.random() < 0.6:
        turns = language.comparison(scene, random)
    else:
        turns = language.describe(scene, random, (4, 4, 1)) if kind >= 2 else []
    turns += language.interview(scene, random, skills) if kind < 3 else []
    return [Turn("user", f"layout [ {words} ]\n{turns[0].text}"), *turns[1:]]


def build_llm(out: Path, *, seed: int, steps: int, batch_size: int = 32) -> dict[str, float]:
    """Train the tokenizer and a Llama of about one million parameters on `reading_turns`."""
    import torch

    from vila2cli.model.tiny import new_llm, new_tokenizer
    from vila2cli.train.optim import lr_at

    random = Random(f"llm {seed}")
    torch.manual_seed(seed)
    tokenizer = new_tokenizer(_tokenizer_texts(Random(f"tokenizer {seed}")))
    model = new_llm(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    progress = Progress("world base: llm", total=steps, unit="steps")
    batches = _text_batches(tokenizer, random, batch_size)
    loss_sum = 0.0
    with progress:
        for step in range(steps):
            batch = next(batches)
            for group in optimizer.param_groups:
                group["lr"] = lr_at(step, steps, peak=2e-3, warmup=50)
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss_sum = 0.98 * loss_sum + 0.02 * loss.item() if step else loss.item()
            progress.advance(1, loss=loss_sum)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {"llm_loss": loss_sum}


def _text_batches(tokenizer: Any, random: Random, batch_size: int) -> Iterator[dict[str, Any]]:
    """Endless batches of conversations of about equal length."""
    import torch

    from vila2cli.model.chat import collate
    from vila2cli.model.tiny import text_ids

    while True:
        pool = sorted(
            (text_ids(tokenizer, reading_turns(random)) for _ in range(8 * batch_size)),
            key=lambda sample: len(sample[0]),
        )
        starts = list(range(0, len(pool), batch_size))
        random.shuffle(starts)
        for start in starts:
            batch = collate(pool[start : start + batch_size], tokenizer.pad_token_id)
            yield {name: torch.tensor(rows) for name, rows in batch.items()}


def _tokenizer_texts(random: Random) -> list[str]:
    """Text of every kind the world holds, for the tokenizer's vocabulary."""
    texts = ["user\n", "assistant\n", "system\n"] * 100
    for _ in range(3000):
        scene = draw_scene(random, "base")
        texts += [turn.text for turn in reading_turns(random)]
        texts += [language.alt_text(scene, random, wrong=0.2, boilerplate=0.2)]
        for name in ("spatial", "grounding", "ocr"):
            texts.append(language.specialist_answer(scene, name))
            texts += [turn.text for turn in language.interview(scene, random, [name])]
        texts += list(PROMPTS.values()) if random.random() < 0.01 else []
    return texts


def build_tower(out: Path, *, seed: int, steps: int, batch_size: int = 64) -> dict[str, float]:
    """Train a vision transformer of about 0.6 million parameters by dense labelling of drawn pictures."""
    import torch

    from vila2cli.model.tiny import DenseLabeller, new_tower
    from vila2cli.train.optim import lr_at

    random = Random(f"tower {seed}")
    torch.manual_seed(seed)
    tower = new_tower(SIDE)
    labeller = DenseLabeller(tower, num_labels=len(LAYOUT_WORDS))
    optimizer = torch.optim.AdamW(labeller.parameters(), lr=1e-3, weight_decay=0.01)
    progress = Progress("world base: tower", total=steps, unit="steps")
    with progress:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr_at(step, steps, peak=1.5e-3, warmup=50)
            loss, right = labeller(*_picture_batch(random, batch_size))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(labeller.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            progress.advance(1, loss=loss.item(), accuracy=right.mean().item())
    held_out = Random(f"tower test {seed}")
    with torch.inference_mode():
        tests = [labeller(*_picture_batch(held_out, 100))[1] for _ in range(10)]
    tower.to(torch.bfloat16).save_pretrained(out)
    return {"tower_accuracy": torch.cat(tests).mean().item()}


def _picture_batch(random: Random, num: int) -> tuple[Any, Any, Any]:
    """Pictures N x 3 x H x W in -1..1, label indices N x 16, and boxes N x 4 x 4 in 0..1 (nan for none)."""
    import torch

    pixels = np.empty((num, 3, SIDE, SIDE), dtype=np.float32)
    labels = np.empty((num, 16), dtype=np.int64)
    boxes = np.full((num, len(PLACES), 4), np.nan, dtype=np.float32)
    for i in range(num):
        scene = draw_scene(random, "base")
        image = decode_image(encode_jpeg(draw_picture(scene, random)))
        pixels[i] = (np.asarray(image, dtype=np.float32) / 127.5 - 1).transpose(2, 0, 1)
        labels[i] = [LAYOUT_WORDS.index(word) for word in language.layout(scene)]
        _fill_boxes(boxes[i], scene)
    return torch.from_numpy(pixels), torch.from_numpy(labels), torch.from_numpy(boxes)


def _fill_boxes(boxes: np.ndarray, scene: Scene) -> None:
    for thing in scene.things:
        boxes[PLACES.index(thing.place)] = np.array(thing.box, dtype=np.float32) / SIDE
