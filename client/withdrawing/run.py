"""The steps of a withdrawal, in an order in which the process may be killed between any two of them.

    1  what versions of before did not record is noted, so that their sums without noise end, too
    2  one transaction of the catalogue: from here on nothing uses the patient, also in a running daemon
    3  prepared samples and what jobs without noise keep between rounds are removed
    4  the signed paper, then the page for the patient's file
    5  the catalogue remembers the paper's hash: the withdrawal is finished

Steps 3 to 5 give the same result when they are repeated; `finish` repeats them for every withdrawal that has not finished.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from salus.client.config import CACHE, STATES, open_catalogue, open_ledger
from salus.client.data.catalogue import Catalogue
from salus.client.data.uses import SHARED, UNRECORDED, UsedJob
from salus.client.data.withdrawals import PATIENT, SITE, Withdrawal
from salus.client.ledger.entries import Close
from salus.client.ledger.store import Ledger
from salus.client.policy import Policy, load_policy
from salus.client.session_store import SqliteSessionStore
from salus.client.withdrawing.jobs import History, Records, history_of, influence, scopes_with_sums
from salus.client.withdrawing.page import write_patient_page
from salus.client.withdrawing.paper import FOLDER, Paper, commitment, digest_of, not_valid, path_of, read_paper, seal
from salus.common.clock import Clock
from salus.common.errors import SalusError
from salus.common.files import sync, write_whole
from salus.common.identity import Identity
from salus.common.kit import SIGNING_KEY
from salus.privacy.contribution import DataKind
from salus.privacy.dp.accounting import epsilon
from salus.privacy.protocol.head import Head


@dataclass(frozen=True)
class Opened:
    """A site's folder, opened for a withdrawal.

    Args:
        delta: at which the epsilon of all jobs together is stated.
        epochs: the present cohort epoch of each data set; 0 if it is not listed.
    """

    folder: Path
    catalogue: Catalogue
    ledger: Ledger
    identity: Identity
    delta: float
    epochs: Mapping[str, int]

    @classmethod
    def open(cls, folder: Path, clock: Clock) -> "Opened":
        """Open it; errors as in `open_catalogue`."""
        catalogue = open_catalogue(folder)
        identity = Identity.load(folder / "keys" / SIGNING_KEY)
        try:
            policy = load_policy(folder / "policy.toml")
        except SalusError:
            policy = Policy()  # one that cannot be read refuses every job, but no withdrawal
        ledger = open_ledger(folder, clock)
        return cls(folder, catalogue, ledger, identity, policy.budget.delta, policy.cohort_epochs)

    def used(self, patients: Collection[str]) -> bool:
        """Return whether a job has used one of these pseudonyms, also of a data set that was removed since."""
        return bool(self.catalogue.uses.of(patients) or self.ledger.places(patients))


def withdraw(site: Opened, patients: Collection[str]) -> int:
    """Withdraw one person, known by these pseudonyms; nothing uses it when this returns. `finish` does the rest."""
    names = sorted({name for patient in patients for name in site.catalogue.merges.of(patient)})
    _note_ended(site, names, site.catalogue.withdrawals.datasets_of(names))
    return site.catalogue.withdrawals.withdraw(names, _text(site.ledger.head()), who=PATIENT)


def withdraw_site(site: Opened) -> int:
    """Withdraw the whole site with all of its patients: every later request is refused."""
    return site.catalogue.withdrawals.withdraw((), _text(site.ledger.head()), who=SITE)


def pending(site: Opened) -> list[Withdrawal]:
    """Return the withdrawals whose paper is not finished."""
    return [found for found in site.catalogue.withdrawals.all() if not found.finished]


def merged_later(site: Opened) -> list[list[str]]:
    """Return pseudonyms that were merged with a person who had withdrawn, and whose jobs no paper tells of."""
    late = [
        [name for name in set(one.patients) - one.named if site.used([name])]
        for one in site.catalogue.withdrawals.all()
    ]
    return [names for names in late if names]


def finish(site: Opened) -> list[Paper]:
    """Finish every withdrawal that is not, the oldest first, and return their papers."""
    with _alone(site.folder):
        for names in merged_later(site):
            site.catalogue.withdrawals.add_paper(names, _text(site.ledger.head()))
        waiting = pending(site)
        if not waiting:
            return []
        clear_cache(site.folder)
        records = Records.of(site.folder, site.ledger, site.catalogue.uses)
        return [_finish(site, one, records) for one in waiting]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process finishes withdrawals of this site; the kernel ends this when the process ends."""
    place = folder / FOLDER
    place.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(place / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _finish(site: Opened, one: Withdrawal, records: Records) -> Paper:
    whole = one.who == SITE
    if whole:
        _close_all(site.ledger)
    history = history_of(records, None if whole else one.patients, one.datasets)
    clear_states(site.folder, [line.job for line in history.jobs if not line.noise and line.use == "certain"])
    path = path_of(site.folder, one.number)
    before = [found for found in site.catalogue.withdrawals.all() if found.number < one.number]
    previous = before[-1].finished if before else ""
    if path.exists():  # signed before the process was killed: the same paper stays
        paper, signed = read_paper(path, site.identity.public_key)
        if paper.patient_sha256 != commitment(one.named, one.salt):
            raise not_valid(path.name, "it means another patient: the catalogue was restored from an older backup")
    else:
        paper = _paper(site, one, history, previous)
        signed = seal(paper, site.identity)
        write_whole(path, signed.to_bytes())
        sync(site.folder)
    write_patient_page(path.with_suffix(".html"), paper, one.patients if not whole else ())
    site.catalogue.withdrawals.finish(one.number, digest_of(signed))
    return paper


def _paper(site: Opened, one: Withdrawal, history: History, previous: str) -> Paper:
    spent = epsilon(history.releases, site.delta)
    return Paper(
        number=one.number,
        previous=previous,
        site_key=site.identity.public_key.hex(),
        who="site" if one.who == SITE else "patient",
        day=one.at,
        patient_sha256=commitment(one.named, one.salt),
        jobs=history.jobs,
        epsilon=spent,
        delta=site.delta,
        bound=influence(spent, site.delta) if spent else "No job with noise has sent anything of this patient's data.",
        ledger_before=one.head,
        ledger_after=_text(site.ledger.head()),
    )


def _note_ended(site: Opened, names: Collection[str], datasets: Collection[str]) -> None:
    """Note which sums without noise end that the record does not tell of.

    Those of versions that recorded no patients; and, if a sum held this person, those over the other data sets with it: a copy
    under another name is the same question.
    """
    path = site.folder / "sessions.sqlite"
    opened, uses = SqliteSessionStore(path).opened() if path.exists() else {}, site.catalogue.uses
    for scope in scopes_with_sums(opened, datasets):
        first = uses.first(scope)
        if first is None or opened[scope] < first:
            job = UsedJob(f"{UNRECORDED} {scope}", scope, noised=False, protected=True)
            uses.note(job, dict.fromkeys(names, DataKind.ALL), 1)
    plain = [use.job for use in uses.of(names) if not use.job.noised]
    if any(not job.protected or job.scope in opened for job in plain):
        for scope in {f"{name}/{site.epochs.get(name, 0)}" for name in datasets} - {job.scope for job in plain}:
            job = UsedJob(f"{SHARED} {scope}", scope, noised=False, protected=False)
            uses.note(job, dict.fromkeys(names, DataKind.ALL), 1)


def clear_cache(folder: Path) -> None:
    """Remove all prepared samples of a site; a daemon prepares what it needs again.

    The samples of all images of one chain are in one file, so that single ones cannot be removed while a daemon reads it. The
    folder is renamed first: nothing that is written there meanwhile stays.
    """
    place = folder / CACHE
    if place.exists():
        number = 0
        while (aside := folder / f"{CACHE}.withdrawn-{number}").exists():
            number += 1
        place.rename(aside)
    for old in folder.glob(f"{CACHE}.withdrawn-*"):
        shutil.rmtree(old, ignore_errors=True)


def clear_states(folder: Path, jobs: Collection[str]) -> None:
    """Remove what jobs without noise keep between rounds, which was computed from the patient's data, too."""
    for job in jobs:
        name = job.replace("/", "-")
        if name not in ("", ".", "..") and (folder / STATES / name).parent == folder / STATES:
            shutil.rmtree(folder / STATES / name, ignore_errors=True)


def _close_all(ledger: Ledger) -> None:
    """Close every open job of a site that has withdrawn: what was reserved and never sent is given back."""
    last = {entry.job: entry for entry, _ in ledger.entries()}
    for job, entry in last.items():
        if not isinstance(entry, Close):
            ledger.close(job)


def _text(head: Head) -> str:
    return f"{head.length}/{head.last.hex()}"
