"""The training loop against plain transformers, and its parts against each other."""

import copy

import pytest
import torch

from vila2cli.model.chat import Chat
from vila2cli.model.freeze import part_of
from vila2cli.run.progress import Progress
from vila2cli.settings import TrainerSettings, TrainSettings
from vila2cli.shards.sample import Turn
from vila2cli.train.data import TrainSample, lengths_of
from vila2cli.train.features import TowerFeatures
from vila2cli.train.loop import Surroundings, fit
from vila2cli.train.manner import begin_training
from vila2cli.train.objective import Batcher, Objective
from vila2cli.train.plan import cut

CPU = torch.device("cpu")


def loss_of(
    model: torch.nn.Module, chat: Chat, batch: list[TrainSample], features: TowerFeatures | None = None
):
    batcher = Batcher(chat, features)
    return Objective(model, features)(*batcher.place(batcher.load([[(sample, 0)] for sample in batch]), CPU))[0]


def test_loss_is_that_of_a_plain_forward(model, chat: Chat, samples: list[TrainSample]) -> None:
    """Sample by sample, with the probabilities looked up by hand."""
    by_hand = 0.0
    for sample in samples:
        inputs = {"input_ids": torch.tensor([sample.ids]), **chat.pixel_inputs([sample.decoded()])}
        with torch.inference_mode():
            log_p = model(**inputs).logits[0].log_softmax(-1)
        for place, label in enumerate(sample.labels):
            if place and label != -100:
                assert label == sample.ids[place]
                by_hand -= log_p[place - 1, label].item()
    assert loss_of(model, chat, samples).item() == pytest.approx(by_hand, rel=1e-5)


def test_cached_features_change_neither_loss_nor_gradients(model, chat: Chat, samples) -> None:
    twin = copy.deepcopy(model)
    loss_of(model, chat, samples).backward()
    features = TowerFeatures(twin)
    for _ in range(2):  # filled on the first pass, read on the second
        twin.zero_grad()
        loss = loss_of(twin, chat, samples, features)
        loss.backward()
    for (name, one), (_, other) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        if part_of(name) != "vision_tower":
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_micro_batches_give_the_gradients_of_the_whole_batch(model, chat: Chat, samples) -> None:
    twin = copy.deepcopy(model)
    loss_of(model, chat, samples).backward()
    parts = cut([[i] for i in range(12)], lengths_of(samples).tokens, 5)
    assert sorted(i for part in parts for (i,) in part) == list(range(12))
    assert [len(part) for part in parts] == [5, 5, 2]
    for part in parts:
        loss_of(twin, chat, [samples[i] for (i,) in part]).backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "trained", [("projector",), ("projector", "llm"), ("vision_tower", "projector", "llm")]
)
def test_only_the_named_parts_change(model, chat: Chat, samples, trained) -> None:
    before = {name: value.clone() for name, value in model.named_parameters()}
    settings = TrainSettings(train=trained, learning_rate=1e-3, epochs=1, batch_size=6)
    with Progress("test", total=2, unit="steps") as progress:
        fit(model, chat, samples, settings, seed=0, progress=progress)
    changed = {
        part_of(name) for name, value in model.named_parameters() if not torch.equal(value, before[name])
    }
    assert changed == set(trained)


def test_the_same_seed_gives_the_same_weights(model, chat: Chat, samples) -> None:
    twin = copy.deepcopy(model)
    settings = TrainSettings(train=("projector", "llm"), learning_rate=1e-3, epochs=2, batch_size=5)
    losses = []
    for one in (model, twin):
        with Progress("test", total=6, unit="steps") as progress:
            losses.append(fit(one, chat, samples, settings, seed=4, progress=progress).final_loss)
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("packing", [False, True])
def test_a_step_of_text_alone_has_zero_gradients_where_only_the_projector_is_trained(
    model, chat: Chat, samples, packing
) -> None:
    """As a step has in which nothing that is trained could change the loss: nothing moves."""
    ids, labels = chat.train_ids([Turn("user", "Which?"), Turn("assistant", "red")], [])
    text = TrainSample("text", ids, labels, [])
    before = {name: value.clone() for name, value in model.named_parameters()}
    settings = TrainSettings(train=["projector"], batch_size=2, micro_batch_size=1, packing=packing)
    result = fit(model, chat, [text] * 4, settings, seed=0, progress=Progress("test", 2))
    assert result.num_steps == 2
    assert result.final_loss > 0
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    # Beside pictures, a pass of text adds nothing to their gradient.
    result = fit(model, chat, [text, *samples[:3]], settings, seed=0, progress=Progress("test", 2))
    assert result.num_samples == 4
    assert any(not torch.equal(before[name], value) for name, value in model.named_parameters())


def test_weights_are_the_same_however_many_threads_make_pictures_ready(model, chat: Chat, samples) -> None:
    settings = TrainSettings(
        train=("projector",), batch_size=4, micro_batch_size=2, epochs=2, learning_rate=1e-3
    )
    ends = []
    for workers in (0, 1, 2):
        net = copy.deepcopy(model)
        around = Surroundings(trainer=TrainerSettings(workers=workers))
        result = fit(net, chat, samples, settings, seed=0, progress=Progress("test", 6), around=around)
        assert result.waited_for_pictures > 0
        ends.append((result.final_loss, net.state_dict()))
    first_loss, first = ends[0]
    for loss, weights in ends[1:]:
        assert loss == first_loss
        assert all(torch.equal(value, first[name]) for name, value in weights.items())


def test_batch_norms_keep_the_statistics_that_they_came_with() -> None:
    """As towers such as FastVLM's have them: a sample's loss does not depend on those beside it."""
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout())
    begin_training(model)
    before = copy.deepcopy(model.state_dict())
    rows = torch.arange(12.0).reshape(4, 3)
    together, alone = model[0](rows), [model[0](row[None]) for row in rows]
    assert torch.equal(together, torch.cat(alone))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model[1].training
