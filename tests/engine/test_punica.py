"""LoRA matrices in vLLM on a CPU: what they add to each token is what its own adapter makes of it."""

import pytest
import torch

NUM_ADAPTERS, NUM_INPUTS, WIDTHS = 3, 12, (8, 4, 4)
WHOSE = (2, 0, 0, 3, 1, 0, 2, 1)
"""An adapter's id for each token, 0 for none; adapter 3 lies in the first place of the matrices."""
PLACES = (3, 1, 2)


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [8, 64])
def test_each_token_gets_what_its_adapter_makes_of_it(rank: int, dtype: torch.dtype) -> None:
    from vllm.lora.layers import LoRAMapping

    from vila2cli.engine.punica import GroupedPunica

    punica = GroupedPunica(64, max_batches=64, device="cpu")
    mapping = LoRAMapping(WHOSE, WHOSE, is_prefill=True)
    punica.update_metadata(mapping, list(PLACES), NUM_ADAPTERS + 1, 100)
    torch.manual_seed(0)
    x = torch.randn(len(WHOSE), NUM_INPUTS).to(dtype)
    a = [torch.randn(NUM_ADAPTERS, 1, rank, NUM_INPUTS).to(dtype) for _ in WIDTHS]
    b = [torch.randn(NUM_ADAPTERS, 1, width, rank).to(dtype) for width in WIDTHS]
    before = torch.randn(len(WHOSE), sum(WIDTHS)).to(dtype)
    y = before.clone()
    punica.add_lora_linear(y, x, a, b, 0.5, WIDTHS)
    for token, adapter in enumerate(WHOSE):
        if not adapter:
            assert torch.equal(y[token], before[token])
            continue
        place = PLACES.index(adapter)
        parts = [
            0.5 * (x[token].double() @ one[place, 0].double().T) @ other[place, 0].double().T
            for one, other in zip(a, b, strict=True)
        ]
        expected = before[token].double() + torch.cat(parts)
        largest = expected.abs().max().item()
        error = (y[token].double() - expected).abs().max().item()
        assert error <= largest * (1e-5 if dtype == torch.float32 else 2e-2)
