import math

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vila2cli.engine.sampling import SeededSampler, gumbel_noise, keep_top_p
from vila2cli.settings import AskedSettings

NO_IDS = torch.zeros(1, 1, dtype=torch.long)


def draws(logits: list[float], num_seeds: int, *, temperature: float = 1.0, top_p: float = 1.0) -> torch.Tensor:
    """How often each token is drawn by `num_seeds` seeds, as shares."""
    scores_BV = torch.tensor([logits]).repeat(num_seeds, 1)
    sampler = SeededSampler(
        [temperature] * num_seeds, [top_p] * num_seeds, list(range(num_seeds)), torch.device("cpu")
    )
    chosen_B = sampler(NO_IDS, scores_BV).argmax(-1)
    return torch.bincount(chosen_B, minlength=len(logits)) / num_seeds


def test_draws_follow_the_softmax() -> None:
    logits = [2.0, 1.0, 0.0, -1.0, 1.5]
    expected = torch.tensor(logits).softmax(-1)
    assert torch.allclose(draws(logits, 40_000), expected, atol=4 * 0.5 / 40_000**0.5)


def test_temperature_divides_the_logits() -> None:
    logits = [2.0, 1.0, 0.0]
    expected = (torch.tensor(logits) / 0.5).softmax(-1)
    assert torch.allclose(draws(logits, 40_000, temperature=0.5), expected, atol=0.01)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = keep_top_p(logits.repeat(3, 1), torch.tensor([0.8, 0.81, 1e-6])).isfinite()
    assert kept.tolist() == [[True, True, False, False], [True, True, True, False], [True, False, False, False]]
    shares = draws(logits[0].tolist(), 20_000, top_p=0.8)
    assert shares[2:].tolist() == [0, 0]
    assert math.isclose(shares[0], 0.5 / 0.8, abs_tol=0.015)


def test_noise_is_gumbel() -> None:
    noise = gumbel_noise(torch.arange(64) * 2**50 + 12345, 3, 10_000).double()
    assert noise.isfinite().all()
    assert abs(noise.mean() - 0.5772) < 0.01
    assert abs(noise.var() - math.pi**2 / 6) < 0.02
    # Rows, steps and neighbouring tokens are uncorrelated.
    rows = torch.corrcoef(noise)
    assert rows[~torch.eye(64, dtype=torch.bool)].abs().max() < 0.06
    later = gumbel_noise(torch.arange(64) * 2**50 + 12345, 4, 10_000).double()
    for a, b in [(noise, later), (noise[:, 1:], noise[:, :-1])]:
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.01


def test_noise_of_neighbouring_seeds_and_steps_does_not_repeat() -> None:
    low = gumbel_noise(torch.tensor([7, 8, 7 + 2**40]), 0, 100)
    high = gumbel_noise(torch.tensor([7, 8, 7 + 2**40]), 1, 100)
    everything = torch.cat([low, high])
    assert len({tuple(row) for row in everything.tolist()}) == 6


def test_rows_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    scores_BV = torch.randn(5, 50)
    settings = ([0.7, 0.0, 1.3, 1.0, 0.2], [0.9, 1.0, 0.5, 1.0, 0.99], [11, 12, 13, 14, 15])
    together = SeededSampler(*settings, torch.device("cpu"))(NO_IDS, scores_BV).argmax(-1)
    for row in range(5):
        alone = SeededSampler(*([part[row]] for part in settings), torch.device("cpu"))
        assert alone(NO_IDS, scores_BV[row : row + 1]).argmax() == together[row]
    assert together[1] == scores_BV[1].argmax()


def test_logprobs_are_of_the_raw_distribution() -> None:
    scores_BV = torch.tensor([[3.0, 1.0, 0.0], [0.0, 5.0, 1.0]])
    sampler = SeededSampler([0.01, 0.0], [1.0, 1.0], [1, 2], torch.device("cpu"))
    sampler(NO_IDS, scores_BV)
    sampler(NO_IDS, scores_BV)
    expected = scores_BV.log_softmax(-1).amax(-1)
    assert torch.allclose(sampler.logprobs_BT, expected[:, None].repeat(1, 2))


def test_what_is_cut_off_is_what_transformers_cuts_off() -> None:
    """Penalty, temperature, top-k, top-p and min-p, in this order; the noise is taken off again."""
    torch.manual_seed(1)
    scores_BV, ids_BS = 3 * torch.randn(6, 80), torch.randint(0, 80, (6, 9))
    seeds = list(range(6))
    for top_k, top_p, min_p, penalty in [
        (7, 1.0, 0.0, 1.0),
        (100, 0.8, 0.0, 1.0),
        (0, 1.0, 0.1, 1.0),
        (0, 1.0, 0.0, 0.6),
        (9, 0.7, 0.2, 1.5),
    ]:
        asked = AskedSettings(top_k=top_k, min_p=min_p, repetition_penalty=penalty)
        sampler = SeededSampler([0.7] * 6, [top_p] * 6, seeds, torch.device("cpu"), asked, [9] * 6)
        ours = sampler(ids_BS, scores_BV) - gumbel_noise(torch.tensor(seeds), 0, 80)
        theirs = LogitsProcessorList(
            [
                RepetitionPenaltyLogitsProcessor(penalty),
                TemperatureLogitsWarper(0.7),
                *([TopKLogitsWarper(top_k)] if top_k else []),
                *([TopPLogitsWarper(top_p)] if top_p < 1 else []),
                MinPLogitsWarper(min_p),
            ]
        )(ids_BS, scores_BV)
        assert torch.equal(ours.isfinite(), theirs.isfinite())
        assert 6 <= ours.isfinite().sum() <= 480
        assert torch.allclose(ours, theirs, atol=1e-4)
