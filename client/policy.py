"""The site policy: what its operator allows, checked in the site's own process before any data are read.

Anything unknown or unparsable is refused. Nothing the coordinator sends can widen the policy.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from salus.client.ledger.budget import Budget
from salus.common.errors import ConfigError, Refused
from salus.common.job import Job
from salus.common.strict import Strict, load_toml
from salus.privacy.protection import key_holder_of, protection_of


class OtherEpoch(Refused):
    """The job is for another cohort epoch than this site's."""


class Policy(Strict):
    """The operator's rules, from ``policy.toml``.

    Args:
        format: Version of the format of this file.
        allow_unprotected: accept jobs in which the coordinator sees this site's own update.
        allow_without_noise: accept jobs that give patients no differential privacy.
        allow_imprint_models: names of models that jobs without noise may use although a wide layer sees the raw input. Crafted
            parameters can make the updates of such a model reveal single patients' samples. Empty refuses them all.
        allow_starts: hashes of the weights with which jobs without noise may start, as the section ``start`` of a job names them
            (``sha256:...``), or ``any``. Weights that somebody crafted, frozen ones too, can make the updates reveal single
            patients' samples, so the operator looks at the package first (`salus model show`). With noise every start is
            accepted, because the guarantee holds for any weights.
        allow_distributed_noise: accept jobs whose noise is shared among the sites. Their guarantee assumes that at most a third
            of the sites collude with the coordinator; local noise trusts no other party.
        key_holders: numbers, on the roster, of the sites to whose key this site may encrypt; the key holder can read every
            update. Empty refuses every encrypted job. Name one only: two of them, with colluding sites, could compare their sums.
        min_patients_per_cell: smallest number of this site's patients behind any figure of statistics or of a subgroup without
            noise; smaller cells are suppressed.
        allow_site_results: accept jobs that report how well the model does at single sites. The total minus the others shows a
            site that is not listed, too, so every site of such a job must allow it.
        tasks: kinds of tasks that may run, or ``statistics``; empty allows every installed one.
        datasets: names of the data sets that jobs may use; empty allows every registered one.
        max_rounds: largest number of rounds of a job.
        cohort_epochs: for each data set, the only cohort epoch that jobs without noise may name; 0 if it is not listed. Within
            an epoch all their sums are over the same sites; raising it, once all operators agree, allows one change.
        min_sites: smallest ``min_sites`` that a job may have, so that no sum is over this site alone.
        checks_per_hour: how many checks (`salus job check`, and one at every submit) about one data set this site answers in an
            hour. Every answer tells whether the patients' budget allows the job, so many of them would tell what is left.
        share_progress: what the coordinator learns of work in progress. With ``percent`` it is the step and a whole percentage,
            whose pace can tell how many batches this site has. With ``step`` it is only the step, and a round leaves this site
            out when one step takes longer than the job's ``round_timeout_s``.
        budget: what one patient may spend over all jobs of one period.
    """

    newest_format: ClassVar[int] = 1

    format: Literal[1] = 1
    allow_unprotected: bool = False
    allow_without_noise: bool = False
    allow_imprint_models: tuple[str, ...] = ()  # no such model is safe without noise
    allow_starts: tuple[
        Annotated[str, Field(pattern=r"^(any|sha256:[0-9a-f]{64})$")], ...
    ] = ()  # the coordinator chose them
    allow_distributed_noise: bool = True  # masking makes the same assumption
    key_holders: tuple[int, ...] = ()
    min_patients_per_cell: Annotated[int, Field(ge=1)] = 5  # a common rule of registries
    allow_site_results: bool = False  # a low figure may be held against the hospital
    tasks: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    max_rounds: Annotated[int, Field(ge=1)] = 1000
    cohort_epochs: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    min_sites: Annotated[int, Field(ge=2)] = 2  # the sum over one site is that site's own update
    checks_per_hour: Annotated[int, Field(ge=0)] = (
        30  # more than people need, and hours of work to measure a budget finely
    )
    share_progress: Literal["percent", "step"] = "percent"  # with "step", long steps need a longer round_timeout_s
    budget: Budget = Budget()

    def check(self, job: Job) -> None:
        """Raise Refused unless every rule allows this job."""
        for refusal in self.objections(job):
            raise refusal

    def least(self, job: Job) -> int:
        """Return the fewest patients in a cell of statistics or in a subgroup that a site does not hide in this job."""
        asked = job.evaluation.min_patients
        if job.statistics is not None:
            asked = max(job.statistics.min_patients, asked if job.statistics.held_out else 0)
        return max(self.min_patients_per_cell, asked)

    def objections(self, job: Job) -> Iterator[Refused]:
        """Yield the refusal of each rule that does not allow this job."""
        if not protection_of(job).protects and not self.allow_unprotected:
            yield Refused(
                f"The job's protection {job.aggregation.protection!r} lets the coordinator read this site's update.",
                remedy="Use a protected job, or let the site's operator set allow_unprotected = true in policy.toml.",
            )
        holder = key_holder_of(job)
        if holder and holder not in self.key_holders:
            yield Refused(
                f"This site's policy does not allow site {holder} as the key holder: it could read updates.",
                remedy="Use masking, or let the site's operator add it to key_holders in policy.toml.",
            )
        if not job.privacy.noised and not self.allow_without_noise:
            yield Refused(
                'The job has noise = "none": nothing limits what its model reveals about one patient.',
                remedy="Use a job with noise, or let the site's operator set allow_without_noise = true in policy.toml.",
            )
        if job.start is not None and not job.privacy.noised and not {"any", job.start.weights} & set(self.allow_starts):
            yield Refused(
                f"The job has no noise and starts from weights that this site's policy does not list: {job.start.weights}.",
                remedy="Use a job with noise, or let the site's operator look at the package with salus model show, and add this "
                "hash to allow_starts in policy.toml.",
            )
        if job.privacy.noise == "distributed" and not self.allow_distributed_noise:
            yield Refused(
                "This site's policy does not allow distributed noise.",
                remedy='Use noise = "local", or ask the operator of the site.',
            )
        kind = "statistics" if job.statistics is not None else job.task.kind
        if self.tasks and kind not in self.tasks:
            yield Refused(
                f"This site's policy allows the tasks {', '.join(self.tasks)}, not {kind!r}.",
                remedy="Ask the site's operator.",
            )
        if self.datasets and job.task.dataset not in self.datasets:
            yield Refused(
                f"This site's policy does not allow the data set {job.task.dataset!r}.",
                remedy="Ask the site's operator.",
            )
        if "site" in job.evaluation.subgroups and not self.allow_site_results:
            yield Refused(
                "This site's policy does not allow a job that reports the model's results at single sites.",
                remedy='Leave "site" out of evaluation.subgroups, or let the site\'s operator set allow_site_results = true in '
                "policy.toml.",
            )
        if job.job.rounds > self.max_rounds:
            yield Refused(
                f"This site's policy allows {self.max_rounds} rounds, not {job.job.rounds}.", remedy="Use fewer rounds."
            )
        epoch, named = self.cohort_epochs.get(job.task.dataset, 0), job.job.cohort_epoch
        if not job.privacy.noised and named != epoch:  # noise covers what sums over other sites would show
            yield OtherEpoch(
                f"This site has cohort epoch {epoch} for the data set {job.task.dataset!r}; the job names {named}.",
                remedy="When all operators agree on a new cohort, each raises it under [cohort_epochs] in policy.toml.",
            )
        if job.job.min_sites < self.min_sites:
            yield Refused(
                f"This site's policy requires min_sites of at least {self.min_sites}, the job has {job.job.min_sites}.",
                remedy="Raise min_sites in the job.",
            )


def load_policy(path: Path) -> Policy:
    """Read ``policy.toml``.

    Raises:
        ConfigError: missing or unreadable. The operator's rules may have been stricter than the defaults, so no default is used.
    """
    if not path.exists():
        raise ConfigError(
            "This site's policy.toml is missing; every job is refused until it exists.",
            remedy="Restore it, or write a new one; salus client init in another folder creates one with comments.",
        )
    return load_toml(Policy, path, error=ConfigError, what="policy file")
