"""Which jobs used a patient, from everything that the site has recorded, and what can be said about the influence."""

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from salus.client.data.uses import SHARED, UNRECORDED, Use, Uses
from salus.client.ledger.accounts import committed_of
from salus.client.ledger.entries import Commit, Entry, Reserve
from salus.client.ledger.spending import in_places
from salus.client.ledger.store import Ledger
from salus.client.rosters import jobs_without_record
from salus.client.withdrawing.paper import DataWord, JobLine, UseWord
from salus.common.identity import Signed
from salus.common.package.layout import LIMITS, MANIFEST, Manifest
from salus.privacy.contribution import DataKind
from salus.privacy.dp.accounting import Release, epsilon, merged

NAMES: dict[DataKind, DataWord] = {
    DataKind.TRAINING: "training",
    DataKind.VALIDATION: "validation",
    DataKind.MEASURED: "statistics",
}
NO_BOUND = (
    "Without noise there is no bound on the influence: model or statistics may hold any amount of this patient's data."
)
NOTHING_SENT = "Nothing was sent of this patient's data."
CERTAIN: UseWord = "certain"
POSSIBLE: UseWord = "possible"
NONE: UseWord = "none"
PACKAGES = "packages"  # where `salus model import` keeps them
LARGEST_EXPONENT = 690.0  # e to the power of more is beyond a float
DIGITS = 16  # of a job's hash in its name


@dataclass(frozen=True)
class History:
    """What was done with one person.

    Args:
        releases: that all jobs with noise together have sent of the person's data.
    """

    jobs: tuple[JobLine, ...]
    releases: tuple[Release, ...]


@dataclass(frozen=True)
class Records:
    """What a site has recorded of all jobs, read once.

    Args:
        entries: of the ledger, by job.
        packages: see `packages_of`.
        recorded: jobs whose patients are recorded.
        unrecorded: jobs of before.
    """

    ledger: Ledger
    uses: Uses
    entries: Mapping[str, list[Entry]]
    packages: Mapping[str, tuple[str, ...]]
    recorded: frozenset[str]
    unrecorded: Sequence[str]

    @classmethod
    def of(cls, folder: Path, ledger: Ledger, uses: Uses) -> "Records":
        """Read the records in a site's folder."""
        entries: dict[str, list[Entry]] = {}
        for entry, _ in ledger.entries():
            entries.setdefault(entry.job, []).append(entry)
        unrecorded = jobs_without_record(folder / "rosters.sqlite")
        return cls(ledger, uses, entries, packages_of(folder), uses.jobs(), unrecorded)


def history_of(records: Records, patients: Collection[str] | None, datasets: Collection[str]) -> History:
    """Return every job that used a person, or may have used it, the oldest first.

    Args:
        patients: the pseudonyms of the person; None for all patients of the site, as one who was in every job.
        datasets: those that held the person.
    """
    entries, uses, recorded = records.entries, records.uses, records.recorded
    places = dict.fromkeys(entries, 1) if patients is None else records.ledger.places(patients)
    every = uses.every() if patients is None else uses.of(patients)
    noted = {use.job.job: use for use in every if not use.job.job.startswith(SHARED)}
    packages = records.packages
    lines, releases = [], list[Release]()
    for job in sorted(places.keys() | noted.keys(), key=lambda name: (_begun(entries, noted, name), name)):
        sent = [in_places(release, places.get(job, 1)) for release in committed_of(entries.get(job, []))]
        own = packages.get(job.partition("/")[2], ())
        lines.append(
            _noised(job, entries[job], noted.get(job), sent, own, recorded=job in recorded)
            if job in entries
            else _plain(noted[job], own)
        )
        releases += sent
    known = entries.keys() | recorded
    for job in records.unrecorded:
        name = f"{job.rpartition('/')[0]}/{job.rpartition('/')[2][:DIGITS]}"
        if name not in known and (datasets or places or noted):
            lines.append(_unrecorded(name, packages.get(name.partition("/")[2], ())))
    return History(tuple(lines), merged(releases))


def _begun(entries: Mapping[str, list[Entry]], noted: Mapping[str, Use], job: str) -> str:
    return entries[job][0].at if job in entries else noted[job].at


def _plain(use: Use, packages: tuple[str, ...]) -> JobLine:
    """Return the line of a job that is not in the ledger: one without noise."""
    recorded = not use.job.job.startswith(UNRECORDED)
    first, sure = (use.round, CERTAIN) if recorded else (None, POSSIBLE)
    return JobLine(
        job=use.job.job, dataset=use.job.scope.rpartition("/")[0], use=sure, data=_words(use.kind), noise=use.job.noised,
        first_round=first, epsilon=None, delta=None, bound=NO_BOUND if not use.job.noised else NOTHING_SENT,
        again=again(first, DataKind.TRAINING in use.kind), packages=packages,
    )  # fmt: skip


def _noised(
    job: str, entries: list[Entry], use: Use | None, sent: list[Release], packages: tuple[str, ...], *, recorded: bool
) -> JobLine:
    """Return the line of a job in the ledger.

    Args:
        recorded: whether it was recorded whose data were read; if so and this patient's were not, only budget was reserved.
    """
    reserve = entries[0]
    assert isinstance(reserve, Reserve)  # Safe because a job's first entry is its reservation.
    rounds = [entry.round for entry in entries if isinstance(entry, Commit)]
    word, first = NONE, None
    if rounds and use is not None:
        word = CERTAIN if use.kind & (DataKind.MEASURED | DataKind.VALIDATION) else POSSIBLE
        first = max(min(rounds), use.round)
    elif rounds and not recorded:
        word, first = POSSIBLE, min(rounds)
    spent = epsilon(sent, reserve.delta)
    trains = use is None or DataKind.TRAINING in use.kind
    return JobLine(
        job=job, dataset=reserve.dataset, use=word, data=() if use is None else _words(use.kind), noise=True, first_round=first,
        epsilon=spent, delta=reserve.delta, bound=influence(spent, reserve.delta) if word != NONE else NOTHING_SENT,
        again=again(first, trains) if word != NONE else "Nothing to train again.", packages=packages,
    )  # fmt: skip


def _words(kinds: DataKind) -> tuple[DataWord, ...]:
    return tuple(name for kind, name in NAMES.items() if kind in kinds)


def _unrecorded(job: str, packages: tuple[str, ...]) -> JobLine:
    return JobLine(
        job=job, dataset="", use="possible", data=(), noise=None, first_round=None, epsilon=None, delta=None,
        bound=f"An earlier version of Salus did not record whom jobs without noise used. If it used the patient: {NO_BOUND}",
        again=again(None, True), packages=packages,
    )  # fmt: skip


def influence(spent: float, delta: float) -> str:
    """Return what an epsilon says about one patient, in words.

    Source for the guess: Kairouz, Oh, Viswanath 2015, arXiv 1311.0776, theorem 2.1: true minus false positives are at most
    (e^epsilon - 1 + 2 delta) / (e^epsilon + 1).
    """
    if spent == 0:
        return NOTHING_SENT
    factor = f"{math.exp(spent):.4g}" if spent < LARGEST_EXPONENT else "more than 1e300"
    right = min(1.0, 1 / (1 + math.exp(-spent)) + delta / (1 + math.exp(min(spent, LARGEST_EXPONENT))))
    return (
        f"Epsilon {spent:.4g} at delta {delta:.3g}: whatever somebody concludes from what was released is at most {factor} times "
        "as likely as without this patient's data, and at least as likely divided by that, apart from a probability of "
        f"{delta:.3g}. Who guesses whether the patient took part, with even odds before, is right with a probability of at most "
        f"{100 * right:.4g} %."
    )


def again(first: int | None, trains: bool) -> str:
    """Return from which model a job can be trained again without a patient who was first used in this round.

    The coordinator keeps the models of a job's last two rounds (`server.checkpoints`); the first one follows from the seed.
    """
    if not trains:
        return "No model to train again: the patient was measured only. Ask for the statistics or the evaluation again."
    if first is not None and first > 1:
        return (
            f"The model after round {first - 1} is from before the patient's first use. The coordinator keeps the models of a "
            f"job's last two rounds only. If it still has round-{first - 1:05d}.safetensors of this job, a new job may begin "
            "from it; otherwise submit the job again: salus job submit."
        )
    return (
        "No model of this job is from before the patient's first use. To train without the patient, submit the job again: "
        "salus job submit. A new job may also begin from a package in which the patient was never used."
    )


def packages_of(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the hashes of the packages that a site has taken in, by the beginning of their job's hash."""
    found: dict[str, list[str]] = {}
    for path in sorted((folder / PACKAGES).glob(f"*/{MANIFEST}")):
        try:
            if path.stat().st_size > LIMITS[MANIFEST]:
                continue
            signed = Signed.model_validate_json(path.read_bytes())
            manifest = Manifest.model_validate_json(signed.document)
        except (OSError, ValidationError, ValueError, RecursionError):
            continue  # what was taken in was checked; what was put there by hand is not a package
        digest = hashlib.sha256(signed.document.encode()).hexdigest()
        found.setdefault(manifest.job_sha256[:DIGITS], []).append(digest)
    return {job: tuple(hashes) for job, hashes in found.items()}


def scopes_with_sums(opened: Mapping[str, str], datasets: Iterable[str]) -> list[str]:
    """Return the scopes of these data sets in which a sum without noise was opened."""
    wanted = set(datasets)
    return sorted(scope for scope in opened if scope.rpartition("/")[0] in wanted)
