"""The plan of a phase: what is trained when, by which process."""

from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from vila2cli.errors import RecipeError
from vila2cli.settings import SourceSettings
from vila2cli.settings.training import BlendSettings
from vila2cli.train.data import Lengths
from vila2cli.train.plan import Step, expected, num_steps, plan_pass, plan_steps


def lengths_of(sizes: list[int], tokens: int = 0, images: tuple[int, ...] = ()) -> Lengths:
    """Sources of so many samples: of `tokens` each, or of 5 to 60, with `images` each."""
    random, num = Random(1), sum(sizes)
    source = np.repeat(np.arange(len(sizes)), sizes)
    shown = np.array([(images or (1,) * len(sizes))[i] for i in source], np.int64)
    drawn = [tokens or random.randint(5, 60) for _ in range(num)]
    return Lengths(
        np.array(drawn, np.int64),
        shown,
        np.array([length // 2 for length in drawn], np.int64),
        source,
        shown,
    )


def steps_of(
    lengths: Lengths, names: list[str], settings: BlendSettings, ranks: int = 1, rank: int = 0
) -> list[Step]:
    return list(plan_steps(lengths, names, settings, seed=3, rank=rank, num_ranks=ranks))


def trained(steps: list[Step]) -> Counter[int]:
    return Counter(i for step in steps for micro in step.micro_batches for members in micro for i in members)


@hypothesis_settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3))
def test_every_sample_once_a_pass(num: int, batch_size: int, epochs: int) -> None:
    settings = BlendSettings(batch_size=batch_size, epochs=float(epochs))
    lengths = lengths_of([num])
    steps = steps_of(lengths, ["one"], settings)
    assert trained(steps) == dict.fromkeys(range(num), epochs)
    assert all(len(step.samples) <= batch_size for step in steps)
    one = plan_pass(lengths, ["one"], settings)
    assert len(steps) == num_steps(one, batch_size=batch_size, epochs=epochs)


@hypothesis_settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.floats(0.1, 3.0))
def test_a_part_of_a_pass_repeats_nothing(num: int, batch_size: int, epochs: float) -> None:
    settings = BlendSettings(batch_size=batch_size, epochs=epochs)
    lengths = lengths_of([num])
    steps = steps_of(lengths, ["one"], settings)
    counts = trained(steps)
    assert max(counts.values(), default=0) - min((counts[i] for i in range(num)), default=0) <= 1
    one = plan_pass(lengths, ["one"], settings)
    assert len(steps) == num_steps(one, batch_size=batch_size, epochs=epochs)


def test_the_seed_decides_the_order() -> None:
    def order(seed: int) -> list[int]:
        settings = BlendSettings(batch_size=8, epochs=2.0)
        return [i for step in plan_steps(lengths_of([30]), ["one"], settings, seed=seed) for i in step.samples]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:30] != order(1)[30:]


@hypothesis_settings(deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 20),
    st.integers(0, 5),
    st.booleans(),
    st.integers(1, 4),
    st.integers(1, 2),
)
def test_processes_share_every_step_evenly(
    num: int, batch_size: int, micro: int, packing: bool, ranks: int, epochs: int
) -> None:
    settings = BlendSettings(
        batch_size=batch_size, micro_batch_size=micro, packing=packing, pack_length=100, epochs=float(epochs)
    )
    lengths = lengths_of([num])
    shares = [steps_of(lengths, ["one"], settings, ranks, rank) for rank in range(ranks)]
    assert len({len(steps) for steps in shares}) == 1
    for together in zip(*shares, strict=True):
        assert len({len(step.micro_batches) for step in together}) == 1
        assert len({step.samples for step in together}) == 1
        assert trained(list(together)) == Counter(together[0].samples)
        for step in together:
            assert all(not micro or len(m) <= micro for m in step.micro_batches)
    alone = steps_of(lengths, ["one"], settings)
    assert [step.samples for step in alone] == [step.samples for step in shares[0]]


def test_no_process_is_idle_while_there_are_samples_for_all() -> None:
    settings = BlendSettings(batch_size=5)
    for ranks in (2, 3, 4, 5):
        sizes = [
            len(steps_of(lengths_of([5]), ["one"], settings, ranks, r)[0].micro_batches[0])
            for r in range(ranks)
        ]
        assert sum(sizes) == 5
        assert max(sizes) - min(sizes) <= 1
    assert steps_of(lengths_of([2]), ["one"], settings, 3, 2)[0].micro_batches == ((),)


@pytest.mark.parametrize("packing", [False, True])
def test_another_number_of_processes_goes_on_with_the_same_samples(packing: bool) -> None:
    settings = BlendSettings(batch_size=7, epochs=2.0, packing=packing, pack_length=120)
    lengths = lengths_of([40, 13])
    names = ["one", "two"]
    before = [steps_of(lengths, names, settings, 2, rank)[:5] for rank in range(2)]
    after = steps_of(lengths, names, settings)[5:]
    assert trained([step for steps in before for step in steps]) + trained(after) == dict.fromkeys(range(53), 2)


def mixed(settings: dict[str, dict[str, float]], sizes: list[int], **more: object) -> BlendSettings:
    mixture = {name: SourceSettings(**values) for name, values in settings.items()}
    return BlendSettings(mixture=mixture, **more)  # type: ignore[arg-type]


def test_weights_keep_proportions_as_far_as_the_scarcest_source_goes() -> None:
    settings = mixed({"a": {"weight": 3.0}, "b": {"weight": 1.0}}, [])
    assert plan_pass(lengths_of([90, 90, 10]), ["a", "b", "c"], settings).counts == (90, 30, 10)
    assert plan_pass(lengths_of([900, 20, 10]), ["a", "b", "c"], settings).counts == (60, 20, 10)


def test_caps_bound_a_source_and_draw_other_samples_each_pass() -> None:
    settings = mixed({"a": {"max_samples": 4}, "b": {"max_tokens": 95}}, [], epochs=5.0, batch_size=4)
    lengths = lengths_of([20, 30], tokens=10)
    assert plan_pass(lengths, ["a", "b"], settings).counts == (4, 9)
    counts = trained(steps_of(lengths, ["a", "b"], settings))
    assert [counts[i] for i in range(20)] == [1] * 20  # five passes of four
    assert sum(counts[i] for i in range(20, 50)) == 45
    assert max(counts.values()) == 2  # none a second time before all were there once


def test_epochs_of_a_source_repeat_it_within_a_pass() -> None:
    settings = mixed({"a": {"epochs": 2.5}, "b": {"epochs": 0.5}}, [])
    counts = trained(steps_of(lengths_of([8, 6]), ["a", "b"], settings))
    assert sum(counts[i] for i in range(8)) == 20
    assert {counts[i] for i in range(8)} == {2, 3}
    assert sum(counts[i] for i in range(8, 14)) == 3


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_text_has_its_share_of_the_tokens(share: float) -> None:
    lengths = lengths_of([400, 300, 350], images=(1, 2, 0))
    names = ["a", "b", "text"]
    settings = BlendSettings(text_share=share, batch_size=16)
    figures = expected(lengths, names, plan_pass(lengths, names, settings), settings.epochs)
    total = sum(one["tokens"] for one in figures.values())
    assert figures["text"]["tokens"] / total == pytest.approx(share, abs=0.01)
    chosen = [i for step in steps_of(lengths, names, settings) for i in step.samples]
    tokens, is_text = lengths.tokens[chosen], lengths.images[chosen] == 0
    assert tokens[is_text].sum() / tokens.sum() == pytest.approx(share, abs=0.03)


def test_expected_and_planned_figures_agree() -> None:
    lengths = lengths_of([50, 20], images=(1, 0))
    settings = mixed({"a": {"weight": 2.0}, "b": {"weight": 1.0}}, [], epochs=3.0, batch_size=8)
    figures = expected(lengths, ["a", "b"], plan_pass(lengths, ["a", "b"], settings), 3.0)
    counts = trained(steps_of(lengths, ["a", "b"], settings))
    assert figures["a"]["samples"] == sum(counts[i] for i in range(50)) == 120
    assert figures["a"]["images"] == 120
    assert figures["b"]["samples"] == sum(counts[i] for i in range(50, 70)) == 60
    assert figures["b"]["tokens"] == int(lengths.tokens[50:].sum()) * 3


def test_a_share_of_text_needs_text_and_others() -> None:
    for images, word in (((1, 2), "no such"), ((0, 0), "only such")):
        lengths = lengths_of([40, 30], images=images)
        with pytest.raises(RecipeError, match=word):
            plan_pass(lengths, ["a", "b"], BlendSettings(text_share=0.1, batch_size=16))
