"""Per-sample randomness for batched decoding: the token drawn for a row depends on its own seed only.

What is cut off before the draw, and in which order, is as transformers does it: penalty, temperature, top-k,
top-p, min-p.

Adding Gumbel noise to log-probabilities and taking the largest is an exact draw from the softmax.
The noise comes from a counter-based hash of (row's seed, step, token id), so it needs no generator
state, is the same on CPU and GPU, and does not change with the rows decoded beside it.

Shapes: B rows of the batch, V vocabulary.
"""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper

from vila2cli.settings import AskedSettings

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

    Rows of temperature 0 stay greedy, and feel the penalty alone. `logprobs_BT` is the natural log of the
    model's own distribution, before everything else, for every generated step T. `num_prompt_B` are the
    tokens of each row's prompt: what stands before them is padding, which the penalty leaves out.
    """

    def __init__(
        self,
        temperatures: Sequence[float],
        top_ps: Sequence[float],
        seeds: Sequence[int],
        device: torch.device,
        asked: AskedSettings | None = None,
        num_prompt_B: Sequence[int] = (),
    ) -> None:
        asked = asked or AskedSettings()
        self._temperature_B = torch.tensor(temperatures, dtype=torch.float32, device=device)
        self._top_p_B = torch.tensor(top_ps, dtype=torch.float32, device=device)
        self._seeds_B = torch.tensor(seeds, dtype=torch.int64, device=device)
        self._samples = any(value > 0 for value in temperatures)
        self._cuts = any(value < 1 for value in top_ps)
        self._num_prompt_B1 = torch.tensor(num_prompt_B, dtype=torch.int64, device=device)[:, None]
        penalty = float(asked.repetition_penalty)
        self._penalty = RepetitionPenaltyLogitsProcessor(penalty) if penalty != 1 else None
        self._top_k = TopKLogitsWarper(asked.top_k) if asked.top_k else None
        self._min_p = MinPLogitsWarper(float(asked.min_p)) if asked.min_p else None
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids_BS: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        allowed_BV = self._penalised(input_ids_BS, scores_BV)
        chosen_BV = self._perturbed(input_ids_BS, allowed_BV) if self._samples else allowed_BV
        index_B1 = chosen_BV.argmax(dim=-1, keepdim=True)
        self._steps.append(scores_BV.gather(-1, index_B1)[:, 0] - scores_BV.logsumexp(dim=-1))
        return chosen_BV

    def _penalised(self, input_ids_BS: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        if self._penalty is None:
            return scores_BV
        length = input_ids_BS.shape[1] - len(self._steps)
        is_padding_BS = torch.arange(input_ids_BS.shape[1], device=input_ids_BS.device) < (
            length - self._num_prompt_B1
        )
        # The last token stands in for padding: it counts once however often it is there.
        own_BS = torch.where(is_padding_BS, input_ids_BS[:, -1:], input_ids_BS)
        penalised_BV: torch.Tensor = self._penalty(own_BS, scores_BV)
        return penalised_BV

    def _perturbed(self, input_ids_BS: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        is_greedy_B = self._temperature_B == 0
        logits_BV = scores_BV / self._temperature_B.masked_fill(is_greedy_B, 1.0)[:, None]
        if self._top_k is not None:
            logits_BV = self._top_k(input_ids_BS, logits_BV)
        if self._cuts:
            logits_BV = keep_top_p(logits_BV, self._top_p_B)
        if self._min_p is not None:
            logits_BV = self._min_p(input_ids_BS, logits_BV)
        noise_BV = gumbel_noise(self._seeds_B, len(self._steps), scores_BV.shape[-1])
        return torch.where(is_greedy_B[:, None], scores_BV, logits_BV + noise_BV)

    @property
    def logprobs_BT(self) -> torch.Tensor:
        return torch.stack(self._steps, dim=1)
