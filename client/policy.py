"""A site's word: what its operator allows, checked in the site's own process before any data are read.

Unknown or unparsable means refuse. Nothing the coordinator sends can widen what stands here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from salus.client.ledger.store import Budget
from salus.common.errors import ConfigError, Refused
from salus.common.job import Job
from salus.common.strict import Strict, load_toml
from salus.privacy.protection import protection_of


class OtherEpoch(Refused):
    """The job is for another cohort epoch than this site's."""


class Policy(Strict):
    """The operator's rules, from ``policy.toml``.

    Args:
        allow_unprotected: accept jobs in which the coordinator sees this site's own update. Off unless written here.
        tasks: kinds of tasks that may run, or ``statistics``; empty means every installed one.
        datasets: data sets that may be used; empty means every registered one.
        max_rounds: longest job that is accepted.
        cohort_epochs: for each data set the only epoch in which sums without noise may be made, 0 for one that is not named. In
            one epoch all of them are over the same sites; raising it, after all operators agreed, allows one change.
        allow_without_noise: accept jobs that give patients no formal privacy. Off unless written here.
        allow_imprint_models: models, by name, that jobs without noise may use although a wide layer sees the raw input. Crafted
            parameters can make their updates reveal single patients' samples. Empty refuses them all.
        min_patients_per_cell: no number of statistics without noise is given in which fewer of this site's patients have a part.
        allow_distributed_noise: accept jobs whose noise is shared among sites, so that the guarantee counts on at most a third
            of them colluding with the coordinator. Local noise counts on nobody.
        budget: what one patient may spend over all jobs of a period.
        key_holders: sites, by their place on the roster, to whose key this site will encrypt; the key holder can read every
            update. Empty refuses every encrypted job. Name one: two of them, with colluding sites, could compare their sums.
        min_sites: fewest sites that a job must require, so that a sum is never over this site alone.
    """

    allow_unprotected: bool = False
    allow_without_noise: bool = False
    allow_imprint_models: tuple[str, ...] = ()  # none is safe without noise
    allow_distributed_noise: bool = True  # masking counts on the same
    key_holders: tuple[int, ...] = ()
    min_patients_per_cell: Annotated[int, Field(ge=1)] = 5  # a usual rule of registries
    tasks: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    max_rounds: Annotated[int, Field(ge=1)] = 1000
    cohort_epochs: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    min_sites: Annotated[int, Field(ge=2)] = 2  # a federation of one is a site's plain update
    budget: Budget = Budget()

    def check(self, job: Job) -> None:
        """Raise Refused unless every rule allows this job."""
        for refusal in self.objections(job):
            raise refusal

    def objections(self, job: Job) -> Iterator[Refused]:
        """Yield what each rule that does not allow this job has to say."""
        if not protection_of(job).protects and not self.allow_unprotected:
            yield Refused(
                f"The job's protection {job.aggregation.protection!r} lets the coordinator read this site's update.",
                remedy="Use a protected job, or let the site's operator set allow_unprotected = true in policy.toml.",
            )
        if job.aggregation.key_holder and job.aggregation.key_holder not in self.key_holders:
            yield Refused(
                f"This site's policy does not allow site {job.aggregation.key_holder} as the key holder: it could read updates.",
                remedy="Use masking, or let the site's operator add it to key_holders in policy.toml.",
            )
        if not job.privacy.noised and not self.allow_without_noise:
            yield Refused(
                'The job has noise = "none": nothing limits what its model reveals about one patient.',
                remedy="Use a job with noise, or let the site's operator set allow_without_noise = true in policy.toml.",
            )
        if job.privacy.noise == "distributed" and not self.allow_distributed_noise:
            yield Refused(
                "This site's policy does not allow distributed noise.",
                remedy='Use noise = "local", or ask its operator.',
            )
        kind = "statistics" if job.statistics is not None else job.task.kind
        if self.tasks and kind not in self.tasks:
            yield Refused(
                f"This site's policy allows the tasks {', '.join(self.tasks)}, not {kind!r}.",
                remedy="Ask the site's operator.",
            )
        if self.datasets and job.task.dataset not in self.datasets:
            yield Refused(
                f"This site's policy does not allow the data set {job.task.dataset!r}.", remedy="Ask its operator."
            )
        if job.job.rounds > self.max_rounds:
            yield Refused(
                f"This site's policy allows {self.max_rounds} rounds, not {job.job.rounds}.", remedy="Shorten the job."
            )
        epoch, named = self.cohort_epochs.get(job.task.dataset, 0), job.job.cohort_epoch
        if not job.privacy.noised and named != epoch:  # noise covers what sums over other sites would show
            yield OtherEpoch(
                f"This site has cohort epoch {epoch} for the data set {job.task.dataset!r}; the job names {named}.",
                remedy="When all operators agree on a new cohort, each raises it under [cohort_epochs] in policy.toml.",
            )
        if job.job.min_sites < self.min_sites:
            yield Refused(
                f"This site's policy requires at least {self.min_sites} sites, the job {job.job.min_sites}.",
                remedy="Raise min_sites in the job.",
            )


def load_policy(path: Path) -> Policy:
    """Read ``policy.toml``.

    Raises:
        ConfigError: missing or unreadable. The operator's rules may have been narrower than the defaults, so nothing is guessed.
    """
    if not path.exists():
        raise ConfigError(
            "This site's policy.toml is missing; until it is there, every job is refused.",
            remedy="Restore it, or write a new one; salus client init in another folder makes one with comments.",
        )
    return load_toml(Policy, path, error=ConfigError, what="policy file")
