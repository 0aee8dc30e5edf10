"""Dynamic loss scaling for float16: the loss is multiplied so that small gradients do not vanish in its few exponents.

Micikevicius et al., arXiv 1710.03740, section 3.2.

1. A step whose gradient is not finite is skipped: no weight and no average moves, the scale is halved, and the step
   counts, so the schedule and the data go on. It is told.
2. After GROW_AFTER good steps in a row the scale doubles.
3. Norm and clipping are those of the unscaled gradient. Scales are powers of two, so scaling itself rounds nothing.
4. At scale 1 an overflow is no matter of scale any more: then the loop stops as in other precisions.
5. Weights and their averages stay float32.

Proved by tests/unit/train/test_scaling.py.
"""

from __future__ import annotations

import math

from torch import Tensor

FIRST = 65536.0
GROW_AFTER = 1000


class Scaler:
    """The scale of a run; 1 for ever unless the precision is fp16."""

    def __init__(self, precision: str) -> None:
        self.active = precision == "fp16"
        self.scale = FIRST if self.active else 1.0
        self.good = 0

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss that is to be differentiated."""
        return loss * self.scale if self.active else loss

    def skips(self, norm: float) -> bool:
        """Whether a step with this norm (of the unscaled gradient) must be left out."""
        return self.active and self.scale > 1 and not math.isfinite(norm)

    def factor(self, norm: float, clip: float) -> float:
        """What the scaled gradients must be multiplied with: unscaled, and clipped unless `clip` is 0."""
        return (min(1.0, clip / (norm + 1e-6)) if clip else 1.0) / self.scale

    def update(self, skipped: bool) -> None:
        """Lowers the scale after an overflow, raises it after many good steps."""
        if not self.active:
            return
        self.good = 0 if skipped else self.good + 1
        if skipped:
            self.scale = max(1.0, self.scale / 2)
        elif self.good == GROW_AFTER:
            self.scale, self.good = self.scale * 2, 0

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"scale": self.scale, "good": self.good}

    def restore(self, state: dict[str, float]) -> None:
        """Takes back what `state` gave."""
        self.scale, self.good = float(state["scale"]), int(state["good"])
