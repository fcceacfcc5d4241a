"""Opacus' optimiser contract around any torch optimiser, with clipping done by our engine and noise of our own.

begin a step     zero_grad()
each micro-batch p.grad = sum of clipped per-patient gradients; accumulate()
end of the step  step(): noise once, divide by the expected number of patients, inner step, accountant's hook
"""

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

    def accumulate(self) -> None:
        """Add ``p.grad``, the clipped sum of a micro-batch, to ``p.summed_grad``."""
        for p in self.params:
            if p.grad is not None:
                p.summed_grad = p.grad if p.summed_grad is None else p.summed_grad + p.grad
            p.grad = None

    def add_noise(self) -> None:
        """Set ``p.grad`` to ``p.summed_grad`` plus noise of standard deviation noise multiplier times clip norm."""
        for p in self.params:
            clipped = torch.zeros_like(p) if p.summed_grad is None else p.summed_grad
            p.grad = noised(clipped, self.noise_multiplier * self.max_grad_norm, self._stream)
            p.summed_grad = None

    def pre_step(self, closure: Any = None) -> bool:
        """Accumulate what is left, add noise, scale, and tell the accountant."""
        self.accumulate()
        self.add_noise()
        self.scale_grad()
        if self.step_hook:
            self.step_hook(self)
        return True
