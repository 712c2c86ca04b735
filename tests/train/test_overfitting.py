"""Five conversations learned by heart, and given back word by word."""

from pathlib import Path

import pytest
from conversing import conversations

from vila2cli.engine import EngineSettings, Request, open_engine
from vila2cli.image import decode_image
from vila2cli.model.chat import Chat
from vila2cli.run.progress import Progress
from vila2cli.settings import TrainSettings
from vila2cli.shards.sample import Sample, Turn
from vila2cli.train.data import encode_sample
from vila2cli.train.loop import fit


@pytest.fixture(scope="module")
def learned(tiny_checkpoint: Path, chat: Chat, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after it has seen five conversations for as long as it takes."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint, dtype="float32")
    samples = [encode_sample(sample, chat, sample.turns, 2048) for sample in chosen()]
    settings = TrainSettings(
        train=("vision_tower", "projector", "llm"),
        learning_rate=3e-3,
        epochs=150.0,
        batch_size=8,
        packing=True,
        pack_length=512,
    )
    with Progress("overfit", unit="steps") as progress:
        result = fit(model, chat, samples, settings, seed=0, progress=progress)
    assert result.final_loss < 0.02
    folder = tmp_path_factory.mktemp("learned") / "checkpoint"
    model.save_pretrained(folder)
    chat.processor.save_pretrained(folder)
    return folder


def chosen() -> list[Sample]:
    """Five conversations about one picture each; what is asked first is told apart by its number."""
    made = [sample for sample in conversations(16) if len(sample.images) == 1][:5]
    return [
        Sample(
            key=sample.key,
            images=sample.images,
            meta={"messages": [Turn("user", f"<image>{i}").to_json(), *sample.meta["messages"][1:]]},
        )
        for i, sample in enumerate(made)
    ]


@pytest.mark.slow
def test_greedy_decoding_gives_every_answer_back(learned: Path) -> None:
    requests, answers = [], []
    for sample in chosen():
        images = tuple(decode_image(image.data) for image in sample.images)
        for i, turn in enumerate(sample.turns):
            if turn.role == "assistant":
                asked = Request(
                    id=f"{sample.key}/{i}", messages=sample.turns[:i], images=images, max_new_tokens=160
                )
                requests.append(asked)
                answers.append(turn.text)
    settings = EngineSettings(dtype="float32", batch_size=8, max_images=1)
    found = {one.id: one.text for one in open_engine("hf", str(learned), settings).generate(requests)}
    assert len(answers) > 8
    assert [found[request.id].strip() for request in requests] == [answer.strip() for answer in answers]
