"""Per-sample randomness for batched decoding: the token drawn for a row depends on its own seed only.

Adding Gumbel noise to log-probabilities and taking the largest is an exact draw from the softmax.
The noise comes from a counter-based hash of (row's seed, step, token id), so it needs no generator
state, is the same on CPU and GPU, and does not change with the rows decoded beside it.

Shapes: B rows of the batch, V vocabulary.
"""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

_MASK = 0xFFFFFFFF


def _mix(value: torch.Tensor) -> torch.Tensor:
    """A bijection on 32-bit integers kept in int64 that leaves no visible pattern; changes `value` in place."""
    value ^= value >> 16
    value.mul_(0x21F0AAAD).bitwise_and_(_MASK)
    value ^= value >> 15
    value.mul_(0x735A2D97).bitwise_and_(_MASK)
    value ^= value >> 15
    return value


def gumbel_noise(seeds_B: torch.Tensor, step: int, num_tokens: int) -> torch.Tensor:
    """Standard Gumbel noise, B x `num_tokens` in float32, from 63-bit seeds (int64) and the step."""
    high_B = _mix(((seeds_B >> 32) + step * 0x9E3779B9) & _MASK)
    row_B = _mix((seeds_B & _MASK) ^ high_B)
    tokens_V = _mix(torch.arange(1, num_tokens + 1, device=seeds_B.device))
    uniform_BV = _mix(tokens_V ^ row_B[:, None]).float()
    # Small values keep their resolution in float32; those next to 1 would become infinite below.
    uniform_BV.add_(0.5).div_(2**32).clamp_(max=1 - 2**-24)
    return uniform_BV.neg_().log1p_().neg_().log_().neg_()


def keep_top_p(logits_BV: torch.Tensor, top_p_B: torch.Tensor) -> torch.Tensor:
    """Logits with everything outside each row's smallest set of probability >= top_p at -inf."""
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True)
    probs_BV = sorted_BV.softmax(dim=-1)
    before_BV = probs_BV.cumsum(dim=-1) - probs_BV
    drop_BV = before_BV >= top_p_B[:, None]
    drop_BV[:, 0] = False
    return logits_BV.masked_fill(drop_BV.scatter(-1, order_BV, drop_BV), float("-inf"))


class SeededSampler(LogitsProcessor):  # type: ignore[misc]
    """Turns greedy `generate` into per-row sampling and records what the chosen tokens' log-probabilities were.

    Rows of temperature 0 stay greedy. `logprobs_BT` is the natural log of the model's own
    distribution, before temperature and top-p, for every generated step T.
    """

    def __init__(
        self, temperatures: Sequence[float], top_ps: Sequence[float], seeds: Sequence[int], device: torch.device
    ) -> None:
        self._temperature_B = torch.tensor(temperatures, dtype=torch.float32, device=device)
        self._top_p_B = torch.tensor(top_ps, dtype=torch.float32, device=device)
        self._seeds_B = torch.tensor(seeds, dtype=torch.int64, device=device)
        self._samples = any(value > 0 for value in temperatures)
        self._cuts = any(value < 1 for value in top_ps)
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids_BS: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        chosen_BV = self._perturbed(scores_BV) if self._samples else scores_BV
        index_B1 = chosen_BV.argmax(dim=-1, keepdim=True)
        self._steps.append(scores_BV.gather(-1, index_B1)[:, 0] - scores_BV.logsumexp(dim=-1))
        return chosen_BV

    def _perturbed(self, scores_BV: torch.Tensor) -> torch.Tensor:
        is_greedy_B = self._temperature_B == 0
        logits_BV = scores_BV / self._temperature_B.masked_fill(is_greedy_B, 1.0)[:, None]
        if self._cuts:
            logits_BV = keep_top_p(logits_BV, self._top_p_B)
        noise_BV = gumbel_noise(self._seeds_B, len(self._steps), scores_BV.shape[-1])
        return torch.where(is_greedy_B[:, None], scores_BV, logits_BV + noise_BV)

    @property
    def logprobs_BT(self) -> torch.Tensor:
        return torch.stack(self._steps, dim=1)
