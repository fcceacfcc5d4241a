"""Opacus' optimiser interface around any torch optimiser, with our own clipping engine and noise.

begin a step     zero_grad()
each micro-batch accumulate(sums of clipped per-patient gradients), in double precision
end of the step  step(): noise once, divide by the expected number of patients, inner step, accountant's hook
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping

from salus.privacy.dp.gaussian import noised
from salus.privacy.randomness import Stream


class PatientOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]  # opacus has no types
    """Adds noise once per step, for any number of micro-batches.

    Args:
        optimizer: the inner torch optimiser.
        noise_multiplier: standard deviation of the noise divided by the clip norm.
        clip_norm_l2: clip norm of each patient's gradient.
        expected_patients: public expected number of patients in a sample.
        stream: cryptographic randomness.
        correct: called in each step after the noise, to change gradients by public numbers; None for nothing.

    Guarantees: `step` adds noise also to an empty sample; Opacus' accountants can be attached by `attach_step_hook`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        clip_norm_l2: float,
        expected_patients: float,
        stream: Stream,
        correct: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clip_norm_l2,
            expected_batch_size=expected_patients,
            loss_reduction="mean",
        )
        self._stream = stream
        self._correct = correct

    def accumulate(self, clipped: Sequence[torch.Tensor]) -> None:
        """Add the clipped sum of a micro-batch, one float64 tensor per parameter, to ``p.summed_grad``."""
        for p, gradient in zip(self.params, clipped, strict=True):
            p.summed_grad = gradient if p.summed_grad is None else p.summed_grad + gradient

    def add_noise(self) -> None:
        """Set ``p.grad`` to ``p.summed_grad`` plus noise of standard deviation noise multiplier times clip norm."""
        for p in self.params:
            clipped = torch.zeros_like(p) if p.summed_grad is None else p.summed_grad
            p.grad = noised(clipped, self.noise_multiplier * self.max_grad_norm, self._stream).to(p)
            p.summed_grad = None

    def pre_step(self, closure: Any = None) -> bool:
        """Add noise, scale, and call the accountant's hook."""
        self.add_noise()
        self.scale_grad()
        if self._correct is not None:
            self._correct()
        if self.step_hook:
            self.step_hook(self)
        return True
