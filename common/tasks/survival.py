"""Survival of patients from images or rows: the chance of an event in each of a few public intervals of time (hazards).

A network gives a logit for each interval; its hazard is the chance of the event in that interval for a patient who reached it
(Brown 1975; for networks Gensheimer and Narasimhan 2019, PeerJ 7:e6257). The loss of a patient depends on that patient alone,
which Cox's partial likelihood does not: so it trains under differential privacy. Metrics come from histograms that add up.
"""

import math
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field as Key
from pydantic import model_validator

from salus.common.batch import Batch, Field
from salus.common.estimates import Metric
from salus.common.figures import Figures
from salus.common.job import TaskSettings
from salus.common.job_statistics import Label
from salus.common.metrics.survival import RISK_LOW, Brier, Concordance
from salus.common.optional_torch import functional as F
from salus.common.optional_torch import torch
from salus.common.outcomes import outcome_of
from salus.common.registry import settings_of
from salus.common.tasks.base import Said, Step, Totals, finite, full
from salus.common.tasks.coarse import Coarse
from salus.common.tasks.tabular import ImagesOrRows

Time = Annotated[float, Key(gt=0, le=1e9)]
LOSS_LIMIT = 50.0  # one patient's loss counts at most this, so that its share of the statistic is at most 1


class SurvivalSettings(TaskSettings):
    """Settings of survival.

    Args:
        times: Ends of the intervals, rising, in the unit of the data; what happens after the last one is not modelled.
        unit: Unit of the times, for people.
        classes: Names of the intervals; left out, they follow from the times.
    """

    classes: Annotated[tuple[Label, ...], Key(max_length=1000)] = ()
    times: Annotated[tuple[Time, ...], Key(min_length=2, max_length=64)]
    unit: Annotated[str, Key(pattern=r"^[a-z]{1,16}$")] = "days"

    @model_validator(mode="after")
    def _intervals(self) -> Self:
        if list(self.times) != sorted(set(self.times)):
            raise ValueError("expected rising times")
        if not self.classes:
            self.__dict__["classes"] = tuple(f"until {time:g}" for time in self.times)  # frozen for everybody else
        if len(self.classes) != len(self.times):
            raise ValueError("expected no classes, or one name for each of times")
        return self


class Survival(ImagesOrRows):
    """The time to an event; labels are ``538`` for an event and ``538+`` for a patient who was followed without one."""

    Settings = SurvivalSettings
    label_is = "measurement"
    headline = ("c_index", "brier")

    def _set(self, settings: TaskSettings, inputs: dict[str, Field]) -> None:
        super()._set(settings, inputs)
        self.own = settings_of(settings, SurvivalSettings)
        self.times = np.array(self.own.times)
        self.spec = {**inputs, "label": Field((2,))}
        self.concordance = Concordance(float(self.times[-1]))
        self.evaluated = sorted({len(self.times) // 4, len(self.times) // 2, 3 * len(self.times) // 4})
        self.briers = [Brier(float(self.times[place]), float(self.times[-1])) for place in self.evaluated]
        self.middle = self.evaluated[len(self.evaluated) // 2]
        self.coarse = Coarse(("later", "event"))

    def target(self, label: str) -> npt.NDArray[Any] | None:
        """Return time and event (1 or 0) of an outcome, or None."""
        found = outcome_of(label)
        return None if found is None else np.array([found.time, float(found.event)], dtype=np.float32)

    def losses(self, model: torch.nn.Module, batch: Batch, step: Step) -> torch.Tensor:
        """Return each patient's negative log-likelihood.

        A patient who is no longer followed counts as having survived the intervals of which more than half was seen.
        """
        logits = full(self.infer(model, batch))
        survived, happened = self._seen(batch["label"].to(logits))
        likelihood = survived * F.logsigmoid(-logits) + happened * F.logsigmoid(logits)
        return -likelihood.sum(dim=1)

    def _seen(self, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which intervals each patient survived, and in which the event happened, ``[items, intervals]``."""
        time, event = label[:, :1], label[:, 1:] > 0.5
        ends = torch.as_tensor(self.times, dtype=label.dtype, device=label.device)
        starts = torch.cat([torch.zeros_like(ends[:1]), ends[:-1]])
        happened = event & (time > starts) & (time <= ends)
        happened = torch.where((time <= 0) & event, starts == 0, happened)
        survived = torch.where(event, time > ends, time >= (starts + ends) / 2)
        return survived.to(label), happened.to(label)

    def survival(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the chance of having no event until the end of each interval, float64 ``[items, intervals]``."""
        return F.logsigmoid(-finite(outputs)).cumsum(dim=1).exp()

    def risk(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the cumulative hazard, float64 ``[items]``; larger is worse."""
        total = F.softplus(finite(outputs)).sum(dim=1)
        return total.clamp(min=math.exp(RISK_LOW)).log()

    def said(self, outputs: torch.Tensor) -> Said:
        """Return the chance of having no event until each of the times."""
        shares = self.survival(outputs[None])[0].tolist()
        values = {
            f"free of the event at {t:g} {self.own.unit}": s for t, s in zip(self.times.tolist(), shares, strict=True)
        }
        return Said(f"{shares[self.middle]:.3f}", values={**values, "risk": float(self.risk(outputs[None])[0])})

    @property
    def statistics_size(self) -> int:
        return 2 + self.concordance.size + sum(brier.size for brier in self.briers)

    def rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return [1, loss, cells of the concordance, cells of each Brier score] of each item."""
        label, logits = batch["label"].double().cpu(), finite(outputs)
        survived, happened = self._seen(label)
        loss = -(survived * F.logsigmoid(-logits) + happened * F.logsigmoid(logits)).sum(dim=1)
        counted = torch.stack([torch.ones_like(loss), loss.clamp(0, LOSS_LIMIT) / LOSS_LIMIT], dim=1)
        curves = self.survival(outputs)
        parts = [brier.rows(curves[:, place], label) for place, brier in zip(self.evaluated, self.briers, strict=True)]
        return torch.cat([counted, self.concordance.rows(self.risk(outputs), label), *parts], dim=1)

    def metrics(self, totals: Totals) -> dict[str, float]:
        """Return c_index, brier (the mean over three times), brier_<time> and loss."""
        if totals[0] < 0.5:
            return {}
        result = {"loss": float(totals[1] * LOSS_LIMIT / totals[0])}
        start = 2 + self.concordance.size
        c_index = self.concordance.value(totals[2:start])
        if c_index is not None:
            result["c_index"] = c_index
        scores = []
        for brier in self.briers:
            score = brier.value(totals[start : start + brier.size])
            start += brier.size
            if score is not None:
                scores.append(score)
                result[f"brier_{brier.at:g}"] = score
        if scores:
            result["brier"] = float(np.mean(scores))
        return result

    def figures(self, totals: Totals) -> Figures:
        """Return nothing: these metrics have no ROC curve."""
        return Figures()

    @property
    def private_statistics_size(self) -> int:
        return self.coarse.size

    def private_rows(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the rows of `Coarse` for the event until the middle time; zero for patients of whom that is not known."""
        at = float(self.times[self.middle])
        label = batch["label"].double().cpu()
        event = (label[:, 1] > 0.5) & (label[:, 0] <= at)
        known = event | (label[:, 0] > at)
        free = self.survival(outputs)[:, self.middle].clamp(1e-12, 1 - 1e-12)
        logits = torch.stack([free.log(), (1 - free).log()], dim=1)
        return self.coarse.rows(logits, event.long()) * known[:, None]

    def private_metrics(self, totals: Totals, noise_sd: float) -> dict[str, Metric]:
        """Return auc_<time> and accuracy_<time> of the event until the middle time, among those of whom it is known."""
        return self._named(self.coarse.metrics(totals, noise_sd))

    def private_figures(self, totals: Totals, noise_sd: float) -> Figures:
        """Return the fitted ROC curve of the event until the middle time."""
        return self.coarse.figures(totals, noise_sd)

    def foretold(self, patients: float, noise_sd: float) -> dict[str, Metric]:
        """Return the metrics of a model with an area of 0.90."""
        return self._named(self.coarse.foretold(patients, noise_sd))

    def _named(self, found: dict[str, Metric]) -> dict[str, Metric]:
        at = f"{self.times[self.middle]:g}"
        return {f"{name}_{at}": value for name, value in found.items() if name in ("auc", "accuracy")}
