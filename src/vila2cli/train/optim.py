"""Learning-rate schedule and parameter groups."""

import math


def lr_at(step: int, num_steps: int, *, peak: float, warmup: int) -> float:
    """Cosine schedule with linear warm-up, as all three papers use: peak after `warmup` steps, 0 at the end."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
