"""The order of training samples."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from vila2cli.train.data import TrainSample, batches, num_batches


def samples(num: int) -> list[TrainSample]:
    return [TrainSample(str(i), (1, 2), (1, 2), ()) for i in range(num)]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3))
def test_every_sample_once_a_pass(num: int, batch_size: int, epochs: int) -> None:
    drawn = list(batches(samples(num), batch_size=batch_size, epochs=epochs, seed=0))
    assert len(drawn) == num_batches(num, batch_size=batch_size, epochs=epochs)
    assert Counter(s.key for batch in drawn for s in batch) == {str(i): epochs for i in range(num)}
    assert all(len(batch) <= batch_size for batch in drawn)


@given(st.integers(1, 40), st.integers(1, 12), st.floats(0.1, 3.0))
def test_a_part_of_a_pass_repeats_nothing(num: int, batch_size: int, epochs: float) -> None:
    drawn = [
        s.key for batch in batches(samples(num), batch_size=batch_size, epochs=epochs, seed=3) for s in batch
    ]
    counts = Counter(drawn)
    assert max(counts.values(), default=0) - min((counts[str(i)] for i in range(num)), default=0) <= 1
    steps = len(list(batches(samples(num), batch_size=batch_size, epochs=epochs, seed=3)))
    assert steps == num_batches(num, batch_size=batch_size, epochs=epochs)


def test_the_seed_decides_the_order() -> None:
    def order(seed: int) -> list[str]:
        return [s.key for batch in batches(samples(30), batch_size=8, epochs=2, seed=seed) for s in batch]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:30] != order(1)[30:]
