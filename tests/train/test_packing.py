"""Packing: nothing lost, nothing too long, and the same loss and gradients as without."""

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import PreTrainedModel

from vila2cli.model.chat import IGNORE_INDEX, Chat
from vila2cli.train.attention import joins_sequences, set_kernel
from vila2cli.train.data import TrainSample
from vila2cli.train.objective import Batcher, Objective
from vila2cli.train.packing import join, pack

CPU = torch.device("cpu")
Sequences = Sequence[Sequence[TrainSample]]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3)), min_size=1, max_size=40),
    st.integers(0, 5),
    st.integers(1, 4),
)
def test_every_sample_has_one_place(lengths: list[tuple[int, int]], max_images: int, multiple: int) -> None:
    tokens, images = [one for one, _ in lengths], [one for _, one in lengths]
    packed = pack(tokens, images, max_tokens=50, max_images=max_images, multiple=multiple)
    assert sorted(i for members in packed for i in members) == list(range(len(lengths)))
    for members in packed:
        assert len(members) == 1 or sum(tokens[i] for i in members) <= 50
        assert len(members) == 1 or not max_images or sum(images[i] for i in members) <= max_images
    assert len(packed) % multiple == 0 or all(len(members) == 1 for members in packed)


def test_little_is_left_empty() -> None:
    tokens = [30 + 7 * i % 50 for i in range(400)]
    packed = pack(tokens, [1] * 400, max_tokens=512)
    assert sum(tokens) / (512 * len(packed)) > 0.96


def test_samples_do_not_share_positions_or_labels() -> None:
    rows = join([[([5, 6, 7], [5, 6, 7]), ([8, 9], [8, 9])], [([4], [4])]], pad_id=0)
    assert rows["input_ids"] == [[5, 6, 7, 8, 9], [4, 0, 0, 0, 0]]
    assert rows["position_ids"] == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]
    assert rows["labels"] == [[IGNORE_INDEX, 6, 7, IGNORE_INDEX, 9], [IGNORE_INDEX] * 5]
    one = join([[([5, 6, 7], [5, 6, 7]), ([8, 9], [8, 9])], [([4], [4])]], pad_id=0, in_one=True)
    assert one["position_ids"] == [[0, 1, 2, 0, 1, 0]]


def backward(model: nn.Module, batcher: Batcher, passes: Sequence[Sequences]) -> float:
    """Add up the gradients of the mean loss per trained token over forward passes."""
    objective = Objective(model, batcher.features)
    every = [sample for sequences in passes for members in sequences for sample in members]
    num_trained = sum(label != IGNORE_INDEX for sample in every for label in sample.labels)
    loss = 0.0
    for sequences in passes:
        loaded = batcher.load([[(sample, 0) for sample in members] for members in sequences])
        summed, by_source = objective(*batcher.place(loaded, CPU), loaded.sample_lengths)
        assert by_source.item() == pytest.approx(summed.item())
        (summed / num_trained).backward()
        loss += summed.item() / num_trained
    return loss


def assert_same_gradients(one: nn.Module, other: nn.Module) -> None:
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(
                a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
            )


@pytest.mark.parametrize("kernel", ["sdpa", "sdpa_by_sample"])
def test_packed_and_unpacked_have_the_same_loss_and_gradients(
    model: PreTrainedModel, chat: Chat, samples: list[TrainSample], kernel: str
) -> None:
    twin = copy.deepcopy(model)
    set_kernel(twin, kernel)
    plain = backward(model, Batcher(chat), [[[sample] for sample in samples]])
    places = pack([len(s.ids) for s in samples], [len(s.images) for s in samples], max_tokens=300)
    assert 1 < len(places) < len(samples) / 2
    sequences = [[samples[i] for i in members] for members in places]
    packed = backward(twin, Batcher(chat, is_packed=True, in_one=joins_sequences(kernel)), [sequences])
    assert packed == pytest.approx(plain, rel=1e-5)
    assert_same_gradients(model, twin)


def test_samples_that_see_each_other_have_another_loss(
    model: nn.Module, chat: Chat, samples: list[TrainSample]
) -> None:
    """What the test above would not pass with: positions that run on over the samples of a sequence."""
    batcher = Batcher(chat, is_packed=True)
    tensors, keys = batcher.place(batcher.load([[(sample, 0) for sample in samples[:4]]]), CPU)
    apart = Objective(model, None)(tensors, keys)[0].item()
    tensors["position_ids"] = torch.arange(tensors["input_ids"].shape[1])[None]
    assert Objective(model, None)(tensors, keys)[0].item() != pytest.approx(apart, rel=1e-4)


@pytest.mark.parametrize("is_packed", [False, True])
def test_accumulation_does_not_change_gradients(
    model: nn.Module, chat: Chat, samples: list[TrainSample], is_packed: bool
) -> None:
    """One pass of eight samples and eight passes of one, whose numbers of trained tokens differ."""
    twin, eight = copy.deepcopy(model), samples[:8]
    batcher = Batcher(chat, is_packed=is_packed)
    whole = backward(model, batcher, [[[sample] for sample in eight]])
    parts = backward(twin, batcher, [[[sample]] for sample in eight])
    assert parts == pytest.approx(whole, rel=1e-5)
    assert_same_gradients(model, twin)
