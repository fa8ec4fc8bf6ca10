"""How learning rates and weights of losses go over a run. A warmup of 0 steps is none."""


def warm_then_linear(step: int, steps: int, warmup: int) -> float:
    """Factor in (0, 1]: up over `warmup` steps, then straight down, zero only after the last one."""
    return min(1.0, (step + 1) / max(1, warmup)) * max(0.0, 1 - step / steps)


def trapezoid(step: int, steps: int, warmup: int, cooldown: float) -> float:
    """Factor in (0, 1]: up over `warmup` steps, level, and down over the last share `cooldown` of the run."""
    falling = (steps - step) / max(1.0, cooldown * steps)
    return max(0.0, min(1.0, (step + 1) / max(1, warmup), falling))


def ramp(step: int, first: int, warmup: int, start: float) -> float:
    """`start` before step `first`, then up over `warmup` steps, and 1 from the next one on."""
    return min(1.0, start + (1 - start) * max(0, step + 1 - first) / (warmup + 1))
