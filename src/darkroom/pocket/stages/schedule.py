"""The learning rate over a run. A warmup of 0 steps is none."""


def warm_then_linear(step: int, steps: int, warmup: int) -> float:
    """Factor in (0, 1]: up over `warmup` steps, then straight down, zero only after the last one."""
    return min(1.0, (step + 1) / max(1, warmup)) * max(0.0, 1 - step / steps)


def trapezoid(step: int, steps: int, warmup: int, cooldown: float) -> float:
    """Factor in (0, 1]: up over `warmup` steps, level, and down over the last share `cooldown` of the run."""
    falling = (steps - step) / max(1.0, cooldown * steps)
    return max(0.0, min(1.0, (step + 1) / max(1, warmup), falling))
