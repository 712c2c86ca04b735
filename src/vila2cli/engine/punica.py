"""LoRA matrices in vLLM on a CPU: one product per adapter of a batch.

vLLM's own CPU version copies an adapter's matrices for every token before it multiplies: for 2,048 tokens
of three adapters of rank 64 in a layer of width 128 that takes some 50 times as long as this. Imported by
vLLM alone, which is told its name.

Shapes: N tokens of the batch, I inputs and O outputs of a layer, R rank.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform


class GroupedPunica(PunicaWrapperCPU):  # type: ignore[misc]
    """Multiplies the tokens of each adapter together; those of none are left as they are."""

    _tokens: Sequence[tuple[int, torch.Tensor]] = ()

    def update_metadata(self, *args: Any, **settings: Any) -> None:
        """Note which tokens of the next batch are whose; an adapter's number is its place in the matrices."""
        super().update_metadata(*args, **settings)
        adapters_N = self.token_lora_indices
        self._tokens = [
            (adapter, (adapters_N == adapter).nonzero()[:, 0])
            for adapter in torch.unique(adapters_N).tolist()
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
        for adapter, tokens in self._tokens:
            start, own_x = 0, x_NI[tokens].float()
            for a_1RI, b_1OR, width in zip(
                (a[adapter] for a in lora_a_stacked),
                (b[adapter] for b in lora_b_stacked),
                output_slices,
                strict=True,
            ):
                low = (own_x @ a_1RI[0].float().T) * scale
                change = low.to(y.dtype) @ b_1OR[0].to(y.dtype).T
                y_NO[:, start : start + width].index_add_(0, tokens, change)
                start += width


@contextmanager
def grouped() -> Iterator[None]:
    """Within the block vLLM on a CPU loads models with this instead of its own."""
    current_platform.get_punica_wrapper = lambda: f"{__name__}.{GroupedPunica.__name__}"
    try:
        yield
    finally:
        del current_platform.get_punica_wrapper
