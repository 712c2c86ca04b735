"""Shares by which one of several sources is drawn."""

from collections.abc import Mapping

_TOLERANCE = 0.01
"""How far from 1 shares may add up to, as 0.33 three times does."""


def checked_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares that add up to exactly 1 of those given; raises ValueError where they are none."""
    if odd := [name for name, share in shares.items() if not share > 0]:
        raise ValueError(f"the share of {odd[0]} should be above 0")
    total = sum(shares.values())
    if abs(total - 1) > _TOLERANCE:
        raise ValueError(f"the shares add up to {total:.4g}; make them add up to 1")
    return {name: share / total for name, share in shares.items()}
