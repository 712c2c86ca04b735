"""LoRA matrices in vLLM on a CPU: few products for a whole batch, whosever tokens are in it.

vLLM's own CPU version copies an adapter's matrices for every token before it multiplies: for 2,048 tokens
of three adapters of rank 64 in a layer of width 128 that takes some 50 times as long as this. And a token of
no adapter gets the last one's. Imported by vLLM alone, which is told its name.

Shapes: N tokens of the batch, I inputs and O outputs of a layer, A adapters, R rank.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform

_FEW_RANKS = 32
"""Adapters of so many ranks are multiplied for every token; of more, each for its own alone.

It is the rank that decides, not how many adapters there are: alone or among others they round alike.
"""


class GroupedPunica(PunicaWrapperCPU):  # type: ignore[misc]
    """Adds what each token's adapter makes of it; tokens of none are left as they are."""

    def update_metadata(
        self, mapping: Any, lora_index_to_id: Any, max_loras: int, *args: Any, **settings: Any
    ) -> None:
        """Note which tokens of the next batch are whose; an adapter's number is its place in the matrices."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, *args, **settings)
        adapters_N = self.token_lora_indices
        self._is_own_NA1 = (adapters_N[:, None] == torch.arange(max_loras))[:, :, None].float()
        self._order_N = torch.argsort(adapters_N, stable=True)
        numbers, counts = torch.unique(adapters_N, return_counts=True)
        ends = torch.cumsum(counts, 0).tolist()
        self._runs = [
            (adapter, slice(start, end))
            for adapter, start, end in zip(numbers.tolist(), [0, *ends], ends, strict=False)
            if adapter >= 0
        ]

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Sequence[torch.Tensor],
        lora_b_stacked: Sequence[torch.Tensor],
        scale: float,
        output_slices: Sequence[int],
        **settings: Any,
    ) -> None:
        """Add to y (N x O) what the adapters make of x (N x I), the first product in float32 as in vLLM.

        The layers that vLLM has joined into this one have their matrices, and their slice of O, each.
        """
        y_NO, x_NI = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        add = self._add_at_once if lora_a_stacked[0].shape[2] <= _FEW_RANKS else self._add_by_adapter
        start = 0
        for a_A1RI, b_A1OR, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            add(y_NO[:, start : start + width], x_NI, a_A1RI[:, 0], b_A1OR[:, 0], scale)
            start += width

    def _add_at_once(
        self, y_NO: torch.Tensor, x_NI: torch.Tensor, a_ARI: torch.Tensor, b_AOR: torch.Tensor, scale: float
    ) -> None:
        """All adapters for all tokens, of which only a token's own counts."""
        num_adapters, rank, _ = a_ARI.shape
        low_NAR = (x_NI.float() @ a_ARI.flatten(0, 1).float().T).view(-1, num_adapters, rank) * scale
        low_NAR *= self._is_own_NA1[:, :num_adapters]  # vLLM counts one place more than there are matrices
        b_OAR = b_AOR.transpose(0, 1).flatten(1, 2).to(y_NO.dtype)
        y_NO.addmm_(low_NAR.flatten(1, 2).to(y_NO.dtype), b_OAR.T)

    def _add_by_adapter(
        self, y_NO: torch.Tensor, x_NI: torch.Tensor, a_ARI: torch.Tensor, b_AOR: torch.Tensor, scale: float
    ) -> None:
        """Each adapter for its own tokens, which are brought together first."""
        sorted_NI, change_NO = x_NI[self._order_N].float(), torch.zeros_like(y_NO)
        for adapter, own in self._runs:
            low = (sorted_NI[own] @ a_ARI[adapter].float().T) * scale
            change_NO[own] = low.to(y_NO.dtype) @ b_AOR[adapter].to(y_NO.dtype).T
        y_NO.index_add_(0, self._order_N, change_NO)


@contextmanager
def grouped() -> Iterator[None]:
    """Within the block vLLM on a CPU loads models with this instead of its own."""
    current_platform.get_punica_wrapper = lambda: f"{__name__}.{GroupedPunica.__name__}"
    try:
        yield
    finally:
        del current_platform.get_punica_wrapper
