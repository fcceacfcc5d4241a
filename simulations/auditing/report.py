"""The result of an audit: one JSON file for programs and one page for people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from salus import __version__
from salus.common.files import write_whole
from salus.common.job import Job
from salus.common.pages import Section, write_page
from salus.privacy.audit.one_run import Found
from salus.privacy.protection import protection_of

FORMAT = "salus/audit/1"
PLAIN, MASKED, NOISED = "plain update", "masked sum", "with noise"


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
        interval: 95 % confidence interval of the value, if it has one.
        details: further numbers by name.
        plainly: the result in one sentence for people who do not know the attack.
        bound: of the one-run audit.
    """

    attack: str
    against: str
    figure: str
    value: float | None
    nothing: float
    text: str = ""
    interval: tuple[float, float] | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    plainly: str = ""
    bound: Found | None = None

    def to_json(self) -> dict[str, object]:
        """Return its entry in ``audit.json``; what it has no value for is left out."""
        values = asdict(self)
        values.pop("bound")
        return {key: value for key, value in values.items() if key not in ("interval", "details", "plainly") or value}

    @property
    def shown(self) -> str:
        """The value for people."""
        if self.value is None:
            return "not tried"
        if self.interval is None:
            return f"{self.value:.3g}"
        return f"{self.value:.3g} ({self.interval[0]:.3g} to {self.interval[1]:.3g})"


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Args:
        tried: every attack.
        seconds: that each attack took, by name.
        about: who ran it, and over which data, if not a simulation.
    """

    job: Job
    confidence: float
    tried: Sequence[Tried]
    sites: int
    seed: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    about: str = ""

    @property
    def found(self) -> Found | None:
        """What the one-run audit found in what the job releases; None if it was not tried."""
        protects = protection_of(self.job).protects
        best = NOISED if self.job.privacy.noised else MASKED if protects else PLAIN
        return next((one.bound for one in self.tried if one.bound is not None and one.against == best), None)

    @property
    def claimed(self) -> float | None:
        """The epsilon that the job promises; None without noise."""
        return self.job.privacy.epsilon if self.job.privacy.noised else None

    @property
    def refuted(self) -> bool:
        """Whether the lower bound exceeds what the job promises."""
        return self.claimed is not None and self.found is not None and self.found.lower_bound > self.claimed

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of ``audit.json``."""
        found = self.found
        return {
            "format": FORMAT,
            "salus": __version__,
            "job": self.job.job.name,
            "job_sha256": self.job.digest().hex(),
            "noise": self.job.privacy.noise,
            "claimed_epsilon": self.claimed,
            "delta": self.job.privacy.delta if self.job.privacy.noised else 0.0,
            "lower_bound": None if found is None else round(found.lower_bound, 4),
            "confidence": self.confidence,
            "canaries": 0 if found is None else found.canaries,
            "guesses": 0 if found is None else found.guesses,
            "correct": 0 if found is None else found.correct,
            "refuted": self.refuted,
            "rounds": self.job.job.rounds,
            "sites": self.sites,
            "seed": self.seed,
            "attacks": [one.to_json() for one in self.tried],
            "seconds": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            **({"about": self.about} if self.about else {}),
        }

    @property
    def verdict(self) -> str:
        """One sentence about the promise."""
        if self.found is None:
            return "The one-run audit was not made, so nothing is said about the promised epsilon."
        bound = f"{self.found.lower_bound:.2f}"
        if self.claimed is None:
            return f"The job promises no epsilon; the audit shows that it would be at least {bound}."
        if self.refuted:
            return (
                f"The job promises epsilon {self.claimed:g}, but the audit shows at least {bound}. The code that runs here does "
                "not keep the promise."
            )
        return f"The job promises epsilon {self.claimed:g}; the audit found at least {bound}, which does not contradict it."


def matrix(audit: Audit) -> tuple[list[str], list[list[str]]]:
    """Return the table of attacks against releases: the names of its columns, and its rows."""
    against = [name for name in (PLAIN, MASKED, NOISED) if any(one.against == name for one in audit.tried)]
    rows = []
    for name in dict.fromkeys(one.attack for one in audit.tried):
        mine = {one.against: one for one in audit.tried if one.attack == name}
        first = next(iter(mine.values()))
        cells = [mine[kind].shown if kind in mine else "" for kind in against]
        rows.append([name, first.figure, *cells, f"{first.nothing:.3g}"])
    return ["attack", "figure", *against, "nothing learnt"], rows


def write_report(folder: Path, audit: Audit) -> None:
    """Write ``audit.json`` and ``audit.html``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "audit.json", (json.dumps(audit.to_json(), indent=1, allow_nan=False) + "\n").encode())
    found = audit.found
    limits = "" if found is None else f" What was found is a lower bound at {audit.confidence:.0%} confidence."
    lead = f"{audit.verdict}{limits} A stronger attacker may find more: an attack that learns nothing proves nothing."
    facts = [
        ("promised epsilon", "none" if audit.claimed is None else f"{audit.claimed:g}"),
        ("lower bound of epsilon", "not tried" if found is None else f"{found.lower_bound:.2f}"),
        ("canaries (coin flips)", "-" if found is None else found.canaries),
        ("guesses", "-" if found is None else found.guesses),
        ("correct guesses", "-" if found is None else found.correct),
        ("rounds", audit.job.job.rounds),
        ("sites", audit.sites),
        ("hash of the job", audit.job.digest().hex()),
        ("time", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in audit.seconds.items())),
    ]
    columns, rows = matrix(audit)
    plainly = [(one.attack, one.against, one.plainly or one.text) for one in audit.tried]
    sections = [
        Section("In plain words", text=audit.about, columns=("attack", "against", "what it showed"), rows=plainly),
        Section("", text=EPSILON),
        Section("What protection buys", text=COLUMNS, columns=columns, rows=rows),
        Section("The promise", warns=audit.refuted, text=audit.verdict, columns=("", ""), rows=facts),
        *_attacks(audit),
    ]
    write_page(folder / "audit.html", f"Audit of {audit.job.job.name}", lead, sections)


EPSILON = (
    "Epsilon measures what a single patient may lose. Somebody who guesses whether the patient took part, with even odds before, "
    "is right in at most about 52 of 100 cases with epsilon 0.1, 73 with 1, 88 with 2, 98 with 4, and nearly always with 8. What "
    "the job promises is an upper bound."
)
COLUMNS = (
    "Plain update: what a site sends without protection and without noise. Masked sum: the sum over all sites, without noise. "
    "With noise: what the job itself releases. The last column is what an attack that learns nothing has."
)

QUESTIONS = {
    "one-run audit": "Made-up patients (canaries) are added to one hospital or not, each by the flip of a coin. Can an attacker "
    "who knows them tell from what was released which took part?",
    "membership inference": "Can somebody who has the finished model and a patient's image tell whether the patient took part?",
    "gradient inversion": "Can an image be computed back from an update that was trained on it?",
    "imprint layer": "Can a coordinator craft a job whose update carries single images, so that they can be read from it?",
    "property inference": "Can somebody tell how many patients of a hospital have a property? Noise for patients does not "
    "hide this.",
}


def _attacks(audit: Audit) -> list[Section]:
    sections = []
    for name in dict.fromkeys(one.attack for one in audit.tried):
        mine = [one for one in audit.tried if one.attack == name]
        rows = [
            (
                one.against,
                one.figure,
                one.shown,
                f"{one.nothing:.3g}",
                ", ".join(f"{what}: {value:.3g}" for what, value in one.details.items()),
                one.text,
            )
            for one in mine
        ]
        columns = ("against", "figure", "found", "nothing learnt", "more", "note")
        sections.append(Section(name, QUESTIONS.get(name, ""), columns=columns, rows=rows))
    return sections
