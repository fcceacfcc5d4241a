"""What an attack of an audit is asked, and how it answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from salus.client.data.dicom.isolation import Decoding
from salus.client.performance import Performance
from salus.common.job import Job
from salus.common.start.weights import Weights
from salus.simulations.auditing.report import Tried
from salus.simulations.auditing.world import Change, Craft, Observed, observed


@dataclass(frozen=True)
class Target:
    """A job and the hospitals over which it is audited.

    Args:
        hospitals: folder with ``site-<n>/catalogue.sqlite``.
        decoding: how their files are decoded; None for files that are trusted.
        start: the weights with which the job starts.
    """

    job: Job
    hospitals: Path
    sites: int
    decoding: Decoding | None = None
    start: Weights | None = None


@dataclass(frozen=True)
class Asked:
    """One job that an attack is to be tried on: the audited one, or the same without noise.

    Args:
        original: the job whose audit this is.
        job: the one that is run.
        against: the kinds of releases to be attacked in it.
        target: over which hospitals.
        folder: new, for the runs.
        canaries: number of coin flips.
        shadows: number of shadow models.
        tell: called with the number of steps that are done and of all.
    """

    original: Job
    job: Job
    against: Sequence[str]
    target: Target
    folder: Path
    performance: Performance
    seed: int
    canaries: int
    shadows: int
    confidence: float
    tell: Callable[[int, int], None] = lambda done, of: None

    @property
    def sites(self) -> int:
        """Number of hospitals."""
        return self.target.sites

    def observed(
        self,
        job: Job,
        name: str,
        *,
        change: Change = lambda site, running: None,
        craft: Craft | None = None,
        done: Callable[[int], None] = lambda round_: None,
        rounds: int | None = None,
        hospitals: Path | None = None,
    ) -> Observed:
        """Run a job over the hospitals and return what can be seen of it, see `world.observed`.

        Args:
            name: of a new folder for this run.
            hospitals: other catalogues.
        """
        return observed(
            job, hospitals or self.target.hospitals, self.folder / name, sites=self.sites, performance=self.performance,
            decoding=self.target.decoding, change=change, craft=craft, done=done, rounds=rounds,
            start=None if job.start is None else self.target.start,
        )  # fmt: skip


class Attack(Protocol):
    """One kind of attack; an instance serves one audit.

    Attributes:
        title: its name on the page.
        figure: what its value is.
        nothing: the value of an attack that learns nothing.
    """

    title: ClassVar[str]
    figure: ClassVar[str]
    nothing: ClassVar[float]

    def objection(self, job: Job) -> str:
        """Return why the attack cannot apply to a job; empty if it can."""

    def tried(self, asked: Asked) -> list[Tried]:
        """Try the attack on a job, and return one answer for each kind of release in ``asked.against``.

        Raises:
            SalusError: it could not be tried, such as by a site's limit of memory; the audit says so and continues.
        """
