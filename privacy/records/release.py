"""The release of a package: what must hold before a coordinator signs it, checked again by whoever verifies it.

A release says that the records are complete and do not contradict each other; it does not say that the model is good or that it
may be used on patients.
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AwareDatetime, Field

from salus.common.canonical import canonical_json
from salus.common.errors import IdentityError, PackageError
from salus.common.identity import Identity, Signed, unhex
from salus.common.job import Job
from salus.common.package import layout
from salus.common.package.checking import Package, json_of
from salus.common.package.files import changed
from salus.common.roster import HexKey, SiteId
from salus.common.strict import Strict, validate
from salus.common.subgroups.results import results_from_plain
from salus.privacy.records.architecture import revealing_layers
from salus.privacy.records.audits import audit_gaps
from salus.privacy.records.licences import licence_gaps
from salus.privacy.records.package import Evidence

CONTEXT, ENDORSEMENT_CONTEXT = "salus/release/1", "salus/endorsement/1"
NO_AUDIT = "a model from sums without noise is not audited: nothing limits what its numbers reveal about one patient"
NO_CLAIM = "the job promises no epsilon, so there is no claim that an audit could refute"


class Release(Strict):
    """What a coordinator signs when it releases a package.

    Args:
        package: hash of the signed manifest.
        audit_sha256: of ``audit.json``; None for a job that is not audited, see `unaudited`.
        reason: why a model is released that has revealing layers, or that was not audited; may be empty for others.
        statements: what the reader must know about the claim.
    """

    newest_format: ClassVar[int] = 1

    format: Literal[1] = 1
    package: HexKey
    audit_sha256: HexKey | None
    reason: Annotated[str, Field(max_length=1000)]
    statements: Annotated[tuple[Annotated[str, Field(max_length=1000)], ...], Field(max_length=20)]
    at: AwareDatetime


class Endorsement(Strict):
    """What a site signs when it stands by a package.

    Args:
        package: hash of the signed manifest.
        ledger: whether the site found the ledger head that the package states for it in its own ledger.
    """

    newest_format: ClassVar[int] = 1

    format: Literal[1] = 1
    package: HexKey
    site: SiteId
    ledger: bool
    at: AwareDatetime


def missing_for_release(package: Package, evidence: Evidence, audit: bytes | None, reason: str) -> list[str]:
    """Return what stands against the release of a package, a sentence for each; empty if nothing does.

    Args:
        audit: ``audit.json``, which `salus audit` writes; None without one.
        reason: for the release of a network with layers that reveal single samples, or of a model that is not audited.
    """
    found = []
    if evidence.verified is None:
        found.append("there is no transcript that proves what the sites took part in")
    if not package.has(layout.MODEL_CARD):
        found.append(f"the file {layout.MODEL_CARD} is missing")
    if evidence.without_head:
        found.append(f"the ledger heads of {', '.join(evidence.without_head)} are missing from the privacy card")
    if not evidence.evaluation.get("sites"):
        why = evidence.evaluation.get("not_evaluated") or "the job had none"
        found.append(f"there is no evaluation at the sites ({why})")
    if not results_from_plain(evidence.evaluation.get("subgroups")):
        found.append("there is no table of subgroups: the job names none in evaluation.subgroups")
    found += _audit_gaps(package.job, audit, reason)
    found += _architecture_gaps(package.job, reason)
    found += licence_gaps(package.json(layout.SBOM), package.json(layout.VERSIONS))
    return found


def unaudited(job: Job) -> bool:
    """Return whether no audit of a job is needed: of a model from sums without noise, which makes no claim."""
    return job.statistics is not None and not job.privacy.noised


def _audit_gaps(job: Job, audit: bytes | None, reason: str) -> list[str]:
    if unaudited(job):
        return [] if reason.strip() else ["salus audit does not attack models from sums; give a --reason"]
    if job.statistics is not None:
        return ["salus audit does not attack models from sums, so the claim of this one is not checked"]
    if audit is None:
        return ["there is no audit: run salus audit, which writes audit.json"]
    return audit_gaps(job, json_of(audit, layout.AUDIT))


def _architecture_gaps(job: Job, reason: str) -> list[str]:
    if job.privacy.noised or job.statistics is not None or reason.strip():
        return []
    try:
        layers = revealing_layers(job)
    except Exception as problem:  # of any network
        return [
            f"the network cannot be checked for layers that reveal samples ({type(problem).__name__}); give a --reason"
        ]
    return [
        f"the layer {layer} lies on the raw input and can reveal single samples; give a --reason" for layer in layers
    ]


def statements_of(job: Job, audit: bytes | None) -> tuple[str, ...]:
    """Return what the reader of a release must know about the claim and its audit."""
    if audit is None or unaudited(job):
        return NO_CLAIM, NO_AUDIT
    found = json_of(audit, layout.AUDIT)
    if not job.privacy.noised:
        return (NO_CLAIM,)
    return (
        f"the job promises epsilon {job.privacy.epsilon:g}; an audit found at least {found['lower_bound']:.2f} at "
        f"{found['confidence']:.0%} confidence, and proves no upper bound",
    )


def seal_release(release: Release, coordinator: Identity) -> bytes:
    """Return the signed file of a release."""
    return Signed.seal(coordinator, CONTEXT, canonical_json(release.model_dump(mode="json"))).to_bytes()


def seal_endorsement(endorsement: Endorsement, site: Identity) -> bytes:
    """Return the signed file of an endorsement."""
    return Signed.seal(site, ENDORSEMENT_CONTEXT, canonical_json(endorsement.model_dump(mode="json"))).to_bytes()


def release_of(package: Package, evidence: Evidence) -> Release | None:
    """Return the release of a package after repeating everything that it asks for; None if it was not released.

    Raises:
        PackageError: not signed by the coordinator, of another package or audit, or something stands against it.
    """
    if not package.has(layout.RELEASE):
        if package.has(layout.AUDIT):
            raise changed(f"{layout.AUDIT} is there without {layout.RELEASE}, which signs it")
        return None
    document = _opened(
        package, layout.RELEASE, unhex(package.roster.coordinator.public_key), CONTEXT, "the coordinator"
    )
    release = validate(Release, document, error=PackageError, what=layout.RELEASE, received=True)
    audit = None if unaudited(package.job) else package.read(layout.AUDIT)
    if audit is None and package.has(layout.AUDIT):
        raise changed(f"{layout.AUDIT} is there, but a model from sums without noise is not audited")
    if release.package != package.sha256:
        raise changed(f"{layout.RELEASE} is of another package")
    if release.audit_sha256 != (None if audit is None else hashlib.sha256(audit).hexdigest()):
        raise changed(f"{layout.AUDIT} is not the audit that {layout.RELEASE} names")
    if gaps := missing_for_release(package, evidence, audit, release.reason):
        raise changed(f"it was released although {gaps[0]}")
    if release.statements != statements_of(package.job, audit):
        raise changed(f"{layout.RELEASE} states something else about the claim than {layout.AUDIT}")
    return release


def endorsements_of(package: Package) -> Sequence[Endorsement]:
    """Return the endorsements of a package by site; raises PackageError for one that does not hold."""
    found = []
    for name in sorted(package.files.sizes):
        match = layout.ENDORSEMENT.fullmatch(name)
        if match is None:
            continue
        site, keys = int(match.group(1)), package.roster.keys()
        if site not in keys:
            raise changed(f"{name} is of a site that is not on the roster")
        document = _opened(package, name, keys[site], ENDORSEMENT_CONTEXT, f"site {site}")
        endorsement = validate(Endorsement, document, error=PackageError, what=name, received=True)
        if (endorsement.site, endorsement.package) != (site, package.sha256):
            raise changed(f"{name} is of another site or another package")
        found.append(endorsement)
    return sorted(found, key=lambda one: one.site)


def _opened(package: Package, name: str, key: bytes, context: str, who: str) -> Any:
    signed = package.document(Signed, name)
    try:
        return json_of(signed.open(key, context, who=who), name)
    except IdentityError:
        raise changed(f"{name} is not signed by {who}") from None
