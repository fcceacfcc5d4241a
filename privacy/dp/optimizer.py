"""Opacus' optimiser contract around any torch optimiser, with clipping done by our engine and noise of our own.

begin a step     zero_grad()
each micro-batch accumulate(sums of clipped per-patient gradients), in double precision
end of the step  step(): noise once, divide by the expected number of patients, inner step, accountant's hook
"""

from collections.abc import Sequence
from typing import Any

import torch
from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping

from salus.privacy.dp.gaussian import noised
from salus.privacy.dp.randomness import Stream


class PatientOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]  # opacus has no types
    """Adds noise once per step, however many micro-batches it was made of.

    Args:
        optimizer: the inner torch optimiser.
        noise_multiplier: standard deviation of the noise over the clip norm.
        clip_norm_l2: bound on each patient's gradient.
        expected_patients: public number of patients that a sample has on average.
        stream: cryptographic randomness.

    Guarantees: `step` adds noise to an empty sample too; Opacus' accountants can be attached by `attach_step_hook`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        clip_norm_l2: float,
        expected_patients: float,
        stream: Stream,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clip_norm_l2,
            expected_batch_size=expected_patients,
            loss_reduction="mean",
        )
        self._stream = stream

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
        """Add noise, scale, and tell the accountant."""
        self.add_noise()
        self.scale_grad()
        if self.step_hook:
            self.step_hook(self)
        return True
