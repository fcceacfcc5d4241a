"""The signed paper of a withdrawal: what a patient may be told, and what an auditor may check, without naming anybody.

The papers of a site are numbered and each holds the hash of the one before it, so that none can be removed or exchanged unseen.
They are files beside the ledger. An entry in the ledger itself would make its signed heads grow by one, which every
other site would see, and versions of before could not read it.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, FiniteFloat, ValidationError

from salus.client.data.withdrawals import Withdrawal
from salus.client.ledger.store import patients_digest
from salus.common.canonical import canonical_json
from salus.common.errors import IdentityError, LedgerError
from salus.common.identity import Identity, Signed, unhex
from salus.common.roster import HexKey
from salus.common.strict import Strict, validate

CONTEXT = "salus/withdrawal/1"
FOLDER = "withdrawals"
MAX_BYTES = 64 * 2**20  # ten thousand jobs take a tenth of it
Text = Annotated[str, Field(max_length=2000)]
HeadText = Annotated[str, Field(pattern=r"^\d{1,19}/[0-9a-f]{64}$")]


UseWord = Literal["certain", "possible", "none"]
DataWord = Literal["training", "validation", "statistics"]


class JobLine(Strict):
    """What one job did with the patient.

    Args:
        job: the coordinator's id of it, and the beginning of the signed job's hash.
        use: ``certain``; ``possible`` where patients were sampled or no record was kept; ``none`` if only a budget was reserved.
        first_round: the first one in which the patient may have been used; None if that is not known.
        epsilon: spent on this patient, at `delta`; None without noise.
        bound: what that says about the patient's influence.
        again: from which model the job can be trained again without the patient.
        packages: hashes of the packages of this job that the site has taken in.
    """

    job: Annotated[str, Field(max_length=300)]
    dataset: Annotated[str, Field(max_length=200)]
    use: UseWord
    data: Annotated[tuple[DataWord, ...], Field(max_length=3)]
    noise: bool | None
    first_round: Annotated[int, Field(ge=1)] | None
    epsilon: Annotated[FiniteFloat, Field(ge=0)] | None
    delta: Annotated[FiniteFloat, Field(ge=0, lt=1)] | None
    bound: Text
    again: Text
    packages: Annotated[tuple[HexKey, ...], Field(max_length=1000)]


class Paper(Strict):
    """What a site signs about one withdrawal.

    Args:
        number: from 1.
        previous: SHA-256 of the document of the paper before; empty for the first.
        site_key: the site's public key.
        who: a patient, or the whole site with all of its patients.
        day: of the withdrawal.
        patient_sha256: SHA-256 over a random number and the pseudonyms, as in the ledger. The site alone keeps the number, and
            can show with it later whom the paper means.
        epsilon: that all jobs with noise together have spent on the patient, at `delta`.
        ledger_before, ledger_after: entries and last hash of the ledger, when the withdrawal began and when it was signed.
    """

    newest_format: ClassVar[int] = 1

    format: Literal[1] = 1
    number: Annotated[int, Field(ge=1)]
    previous: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    site_key: HexKey
    who: Literal["patient", "site"]
    day: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    patient_sha256: HexKey
    jobs: Annotated[tuple[JobLine, ...], Field(max_length=100_000)]
    epsilon: Annotated[FiniteFloat, Field(ge=0)]
    delta: Annotated[FiniteFloat, Field(gt=0, lt=1)]
    bound: Text
    ledger_before: HeadText
    ledger_after: HeadText


def path_of(folder: Path, number: int) -> Path:
    """Return where a site keeps the paper with this number."""
    return folder / FOLDER / f"{number:04d}.json"


def digest_of(signed: Signed) -> str:
    """Return the hash by which the next paper, and the catalogue, know a paper."""
    return hashlib.sha256(signed.document.encode()).hexdigest()


def seal(paper: Paper, identity: Identity) -> Signed:
    """Sign a paper."""
    return Signed.seal(identity, CONTEXT, canonical_json(paper.model_dump(mode="json")))


def read_paper(path: Path, key: bytes | None = None) -> tuple[Paper, Signed]:
    """Return a paper after checking its signature.

    Args:
        key: the site's public key; None takes the one that the paper names, which proves only that nothing was changed since.

    Raises:
        LedgerError: no such file, not a paper, another site's, or changed after it was signed.
    """
    name = path.name
    try:
        if path.stat().st_size > MAX_BYTES:
            raise not_valid(name, "it is too large")
        signed = Signed.model_validate_json(path.read_bytes())
        stated = Paper.model_validate_json(signed.document) if key is None else None
    except OSError:
        raise not_valid(name, "it cannot be read") from None
    except (ValidationError, ValueError, RecursionError):
        raise not_valid(name, "it is not a paper of a withdrawal") from None
    try:
        document = signed.open(unhex(stated.site_key) if stated is not None else key or b"", CONTEXT, who="the site")
    except IdentityError:
        raise not_valid(name, "its signature is not this site's, or it was changed after it was signed") from None
    paper = validate(Paper, _json(document, name), error=LedgerError, what="paper of a withdrawal")
    if key is not None and paper.site_key != key.hex():
        raise not_valid(name, "it names another site's key")
    return paper, signed


def check_papers(folder: Path, known: Sequence[Withdrawal], key: bytes) -> list[Paper]:
    """Return the papers of all finished withdrawals of a site after comparing them with its catalogue and with each other.

    Raises:
        LedgerError: one is missing, changed, exchanged or not in the chain; it is named.
    """
    papers, previous = [], ""
    for withdrawal in known:
        if not withdrawal.finished:
            continue
        path = path_of(folder, withdrawal.number)
        paper, signed = read_paper(path, key)
        if digest_of(signed) != withdrawal.finished or paper.number != withdrawal.number:
            raise not_valid(path.name, "it is not the paper that the catalogue remembers")
        if paper.previous != previous:
            raise not_valid(path.name, "it does not follow the paper before it")
        if paper.patient_sha256 != commitment(withdrawal.named, withdrawal.salt):
            raise not_valid(path.name, "it means another patient")
        papers.append(paper)
        previous = digest_of(signed)
    extra = {path.name for path in (folder / FOLDER).glob("*.json")} - {path_of(folder, w.number).name for w in known}
    if extra:
        raise not_valid(min(extra), "the catalogue knows no such withdrawal")
    return papers


def commitment(patients: Collection[str], salt: str) -> str:
    """Return what a paper says about whom it means: nothing without the random number."""
    return patients_digest(frozenset(patients), salt)


def not_valid(name: str, why: str) -> LedgerError:
    """Return the error of a paper that does not hold."""
    return LedgerError(
        f"The paper {name!r} is not valid: {why}.",
        remedy="Restore the folder withdrawals and catalogue.sqlite from the same backup of this site.",
    )


def _json(document: bytes, name: str) -> object:
    try:
        return json.loads(document)
    except (ValueError, RecursionError):
        raise not_valid(name, "it is not JSON") from None
