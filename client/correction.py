"""The correction of gradients that a job's strategy asks for, see `LocalRule`."""

import torch

from salus.common.strategies.base import LocalRule
from salus.common.vectors import Layout


class Correction:
    """Changes the gradients of a model's trained parameters in place: ``g + add + pull * (w - start)``.

    Args:
        model: with the parameters at the beginning of the round, which are copied if the rule pulls towards them.
    """

    def __init__(self, model: torch.nn.Module, rule: LocalRule, layout: Layout) -> None:
        self._pull = rule.pull
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._parameters = list(trained.values()) if rule.corrects else []
        self._start = [p.detach().clone() for p in self._parameters] if rule.pull else []
        self._add: list[torch.Tensor] = []
        if rule.add is not None:
            parts = layout.unflatten(rule.add.astype("float32"))
            self._add = [torch.from_numpy(parts[name].copy()).to(parameter) for name, parameter in trained.items()]

    @torch.no_grad()
    def __call__(self) -> None:
        """Correct the gradients of one step; a parameter without a gradient counts as having a gradient of zero."""
        for place, parameter in enumerate(self._parameters):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self._add:
                parameter.grad += self._add[place]
            if self._start:
                parameter.grad += self._pull * (parameter - self._start[place])
