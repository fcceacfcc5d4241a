"""What the coordinator learns about a model from one protected sum over the sites' held-out patients."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from salus.common.estimates import to_plain
from salus.common.figures import Figures
from salus.common.job import Job
from salus.common.subgroups import groups_of
from salus.common.subgroups.exact import from_entries
from salus.common.subgroups.noisy import rows_of, total_noise, total_of
from salus.common.subgroups.results import AttributeResult, exact_results, noisy_results, results_to_plain
from salus.common.sums.exact import exact_size
from salus.common.tasks.base import Task, Totals
from salus.privacy.contribution import Shape, Sum
from salus.privacy.noise_in_sum import noise_in_sum
from salus.privacy.shapes import COHORT

NOBODY = "No site had a patient to validate with, so there are no metrics. Raise training.validation_fraction."


@dataclass(frozen=True)
class EvaluationSums:
    """Reads metrics, figures and subgroups from sums of a job's rows.

    Args:
        task: whose rows the sites have added.
        roster: number of sites with which the job began.
    """

    job: Job
    task: Task
    roster: int

    def empty(self, total: Sum, shape: Shape) -> bool:
        """Whether no site had a patient to validate with; with noise nobody can know, and it is False."""
        return not self.job.privacy.noised and not np.any(self._statistics(total, shape))

    def fields(self, total: Sum, shape: Shape) -> dict[str, Any]:
        """Return the fields of the event ``evaluated``."""
        grouped = {"subgroups": results_to_plain(self._subgroups(total, shape))} if groups_of(self.job).count else {}
        return {
            "sites": list(total.sites),
            "metrics": self.metrics(total, shape),
            "figures": self._figures(total, shape).model_dump(mode="json"),
            **grouped,
        }

    def metrics(self, total: Sum, shape: Shape) -> dict[str, object]:
        """Return the metrics in a sum: with noise, only an evaluation has metrics, each with its standard error."""
        if not self.job.privacy.noised:
            found = self._statistics(total, shape)
            return to_plain(self.task.metrics(found)) if np.any(found) else {}
        return to_plain(self.task.private_metrics(*self._noised(total, shape))) if shape.kind == "evaluate" else {}

    def _figures(self, total: Sum, shape: Shape) -> Figures:
        if not self.job.privacy.noised:
            return self.task.figures(self._statistics(total, shape))
        return self.task.private_figures(*self._noised(total, shape))

    def _statistics(self, total: Sum, shape: Shape) -> Totals:
        return total.statistics(shape, self.job.aggregation.max_patients)[: self.task.statistics_size]

    def _noised(self, total: Sum, shape: Shape) -> tuple[Totals, float]:
        """Return the noisy statistics of all patients and the standard deviation of their noise."""
        groups = groups_of(self.job)
        rows, noise = self._noised_rows(total, shape)
        return total_of(rows, groups), noise * total_noise(groups)

    def _noised_rows(self, total: Sum, shape: Shape) -> tuple[Totals, float]:
        """Return the noisy statistics of all patients and of each subgroup, ``[1 + groups, row]``, and the noise's deviation."""
        groups = groups_of(self.job)
        noise = noise_in_sum(self.job, shape, roster=self.roster, sites=len(total.sites))
        return rows_of(total.vector[: shape.parameters], groups), noise * groups.norm_l2

    def _subgroups(self, total: Sum, shape: Shape) -> tuple[AttributeResult, ...]:
        groups = groups_of(self.job)
        if self.job.privacy.noised:
            rows, noise = self._noised_rows(total, shape)
            return noisy_results(self.task, groups, rows[1:], noise)
        size, bound = self.task.statistics_size, self.job.aggregation.max_patients
        entries = total.statistics(shape, 1.0)[size + exact_size(len(COHORT)) :]
        return exact_results(self.task, groups, from_entries(entries, groups, size, bound))
