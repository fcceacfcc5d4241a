"""The result of an audit: one JSON file for programs and one page for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from salus import __version__
from salus.common.files import write_whole
from salus.common.job import Job
from salus.common.pages import Section, write_page
from salus.privacy.audit.one_run import Found

FORMAT = "salus/audit/1"
PLAIN, MASKED, NOISED = "plain update", "masked sum", "with noise"
GUESSING = "epsilon, lower bound"


@dataclass(frozen=True)
class Tried:
    """One attack against one kind of release.

    Args:
        attack: its name.
        against: `PLAIN`: one site's update, without noise; `MASKED`: the sum over all sites, without noise; `NOISED`: what
            the job itself releases.
        figure: what the value is.
        value: how far the attack came; None if it could not be tried.
        nothing: the value of an attack that learns nothing.
        text: what to know about it.
    """

    attack: str
    against: str
    figure: str
    value: float | None
    nothing: float
    text: str = ""


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Args:
        found: of the one-run audit of what the job releases.
        tried: every attack.
        rounds: how many the job has.
    """

    job: Job
    found: Found
    confidence: float
    tried: Sequence[Tried]
    sites: int
    seed: int

    @property
    def claimed(self) -> float | None:
        """The epsilon that the job promises; None without noise."""
        return self.job.privacy.epsilon if self.job.privacy.noised else None

    @property
    def refuted(self) -> bool:
        """Whether the lower bound exceeds what the job promises."""
        return self.claimed is not None and self.found.lower_bound > self.claimed

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of ``audit.json``."""
        return {
            "format": FORMAT,
            "salus": __version__,
            "job": self.job.job.name,
            "job_sha256": self.job.digest().hex(),
            "noise": self.job.privacy.noise,
            "claimed_epsilon": self.claimed,
            "delta": self.job.privacy.delta if self.job.privacy.noised else 0.0,
            "lower_bound": round(self.found.lower_bound, 4),
            "confidence": self.confidence,
            "canaries": self.found.canaries,
            "guesses": self.found.guesses,
            "correct": self.found.correct,
            "refuted": self.refuted,
            "rounds": self.job.job.rounds,
            "sites": self.sites,
            "seed": self.seed,
            "attacks": [asdict(one) for one in self.tried],
        }

    @property
    def verdict(self) -> str:
        """One sentence about the promise."""
        bound = f"{self.found.lower_bound:.2f}"
        if self.claimed is None:
            return f"The job promises no epsilon; the audit shows that it would be at least {bound}."
        if self.refuted:
            return (
                f"The job promises epsilon {self.claimed:g}, but the audit shows at least {bound}. The code that runs here does "
                "not keep the promise."
            )
        return f"The job promises epsilon {self.claimed:g}; the audit found at least {bound}, which does not contradict it."


def write_report(folder: Path, audit: Audit) -> None:
    """Write ``audit.json`` and ``audit.html``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "audit.json", (json.dumps(audit.to_json(), indent=1, allow_nan=False) + "\n").encode())
    found = audit.found
    lead = (
        f"{audit.verdict} It is a lower bound at {audit.confidence:.0%} confidence: a stronger attacker may find more, and a "
        "bound of 0 proves nothing. What the job promises is an upper bound."
    )
    facts = [
        ("promised epsilon", "none" if audit.claimed is None else f"{audit.claimed:g}"),
        ("lower bound of epsilon", f"{found.lower_bound:.2f}"),
        ("canaries (coin flips)", found.canaries),
        ("guesses", found.guesses),
        ("correct guesses", found.correct),
        ("rounds", audit.job.job.rounds),
        ("sites", audit.sites),
        ("hash of the job", audit.job.digest().hex()),
    ]
    sections = [
        Section("The promise", warns=audit.refuted, text=audit.verdict, columns=("", ""), rows=facts),
        *_attacks(audit),
    ]
    write_page(folder / "audit.html", f"Audit of {audit.job.job.name}", lead, sections)


def _attacks(audit: Audit) -> list[Section]:
    sections = []
    for name in dict.fromkeys(one.attack for one in audit.tried):
        mine = [one for one in audit.tried if one.attack == name]
        rows = [
            (
                one.against,
                one.figure,
                "not tried" if one.value is None else f"{one.value:.3g}",
                f"{one.nothing:g}",
                one.text,
            )
            for one in mine
        ]
        sections.append(
            Section(name, columns=("against", "figure", "found", "an attack that learns nothing", "note"), rows=rows)
        )
    return sections
