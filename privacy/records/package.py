"""What a package proves beyond its signatures: that its cards follow from what the sites signed, and that the model is theirs."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from salus import __version__
from salus.common.canonical import canonical_json
from salus.common.errors import ConfigError, SalusError
from salus.common.estimates import to_plain
from salus.common.identity import unhex
from salus.common.package import layout
from salus.common.package.checking import Package
from salus.common.package.describing import inputs_of
from salus.common.package.files import changed
from salus.common.roster import roster_hash
from salus.common.subgroups.results import results_from_plain, results_to_plain
from salus.common.sums.signed_model import open_model
from salus.common.sums.xgboost_json import to_xgboost
from salus.privacy.protection import protection_of
from salus.privacy.protocol.transcript import Verified
from salus.privacy.records.card import ModelCard
from salus.privacy.records.privacy import PrivacyRecord, privacy_record, without_head
from salus.privacy.records.readable import Records, readable_files
from salus.privacy.records.transcripts import Checked, verify_bytes

ROUNDING = 1e-4  # of an epsilon that another version of the accountant computes
UNPINNED = (
    "that the consortium is the one you know: no kit was given, so compare the fingerprint of its key by telephone"
)
NUMBERS = "that the numbers of the evaluation are right: what the sites signed holds hashes of their sums, not the sums"
NO_TRANSCRIPT = "how often the sites sent vectors: the job's protection keeps no transcript"
LEFT_OUT = "what the privacy card is counted from: the transcript is too large for the package, which has its hash"
NOT_EVALUATED = "that the model is the one that the sites trained: they did not evaluate it at the end"


OTHER_FORMS = (
    "that the files in onnx/ and bundle/ hold the same network: only the coordinator signed them, and MONAI's runner executes "
    "expressions in the bundle's configuration, so read it first"
)
OTHER_WORDS = (
    "that model-card.md, documentation.json and inputs.json say what the records say: another version of Salus wrote "
    "them, perhaps in other words"
)
FROM_SUMS = "that the model follows from the sites' sums: only the coordinator, who computed it, signed it"
EVALUATED_SUMS = "that the model follows from the sites' sums: the sites evaluated it, but the coordinator computed it"


@dataclass(frozen=True)
class Evidence:
    """What the records of a package prove.

    Args:
        verified: the transcript; None if the package has none.
        without_head: names of sites that sent vectors under noise and of which no ledger head is known.
        unproven: sentences on what the package cannot prove.
    """

    card: ModelCard
    privacy: PrivacyRecord
    evaluation: dict[str, Any]
    verified: Verified | None
    without_head: Sequence[str]
    unproven: Sequence[str]


def evidence_of(package: Package) -> Evidence:
    """Return what the records of a package prove, after comparing each with the others.

    Raises:
        PackageError: two records contradict each other, or a ledger head is not its site's.
        ProtectionError: the transcript is not valid.
    """
    privacy = package.document(PrivacyRecord, layout.PRIVACY)
    card = package.document(ModelCard, layout.CARD)
    evaluation = package.json(layout.EVALUATION)
    if not isinstance(evaluation, dict):
        raise changed(f"{layout.EVALUATION} is not an evaluation")
    checked = _transcript(package, privacy)
    _check_privacy(package, privacy, checked)
    _check_card(package, card, privacy, evaluation)
    _check_evaluation(package, evaluation, checked)
    _check_inputs(package)
    unproven = list(checked.unproven) if checked else []
    if privacy.transcript is None:
        unproven.append(NO_TRANSCRIPT)
    elif checked is None:
        unproven.append(LEFT_OUT)
    unproven += _check_model(package, checked)
    unproven += _check_readable(package, Records(
        package.job, package.roster, card, privacy, evaluation, package.json(layout.VERSIONS),
        None if checked is None else len(checked.verified.sums),
    ))  # fmt: skip
    if package.has(layout.ONNX) or package.has(layout.BUNDLE_CONFIG):
        unproven.append(OTHER_FORMS)
    if evaluation.get("sites"):
        unproven.append(NUMBERS)
    if not package.pinned:
        unproven.append(UNPINNED)
    return Evidence(
        card, privacy, evaluation, None if checked is None else checked.verified, without_head(privacy), tuple(unproven)
    )


def _transcript(package: Package, privacy: PrivacyRecord) -> Checked | None:
    kept, included = protection_of(package.job).transcript, package.has(layout.TRANSCRIPT)
    line = privacy.transcript
    if (line is not None) != kept or included != (line is not None and line.included):
        raise changed(f"{layout.PRIVACY} and the package do not agree on whether there is a transcript")
    if line is None or not included:
        return None
    data, stated = package.read(layout.TRANSCRIPT), package.manifest.line(layout.TRANSCRIPT)
    if stated is None or (line.sha256, line.size) != (stated.sha256, stated.size):
        raise changed(f"{layout.PRIVACY} names another transcript than {layout.MANIFEST}")
    try:
        checked = verify_bytes(data, layout.TRANSCRIPT, unhex(package.manifest.consortium_key))
    except ConfigError:
        raise changed(f"{layout.TRANSCRIPT} is not a transcript") from None
    if roster_hash(checked.signed) != package.manifest.roster_sha256:
        raise changed(f"{layout.TRANSCRIPT} is of another roster than {layout.ROSTER}")
    if checked.verified.job != package.job:
        raise changed(f"{layout.TRANSCRIPT} is of another job than {layout.JOB}")
    if checked.verified.job_id != package.manifest.job_id:
        raise changed(f"{layout.TRANSCRIPT} is of another submission of the job than {layout.MANIFEST}")
    if not checked.verified.sums:
        raise changed(f"{layout.TRANSCRIPT} holds no finished sum")
    return checked


def _check_privacy(package: Package, privacy: PrivacyRecord, checked: Checked | None) -> None:
    for line in privacy.heads:
        line.opened(package.roster)
    if privacy.transcript is not None and checked is None:
        return
    data = package.read(layout.TRANSCRIPT) if checked else None
    verified = checked.verified if checked else None
    counted = privacy_record(package.job, package.roster, verified, data, included=checked is not None)
    if counted.heads != privacy.heads:
        raise changed(f"the ledger heads in {layout.PRIVACY} are not those of {layout.TRANSCRIPT}")
    if not _same(counted.card.model_dump(), privacy.card.model_dump()):
        raise changed(f"the privacy card does not follow from {layout.TRANSCRIPT if checked else layout.JOB}")


def _same(counted: object, stated: object) -> bool:
    """Return whether two cards are equal; numbers may differ by what another machine or library computes differently."""
    if isinstance(counted, dict) and isinstance(stated, dict):
        return counted.keys() == stated.keys() and all(_same(counted[key], stated[key]) for key in counted)
    if isinstance(counted, tuple) and isinstance(stated, tuple):
        return len(counted) == len(stated) and all(map(_same, counted, stated))
    if isinstance(counted, float) and isinstance(stated, float):
        return math.isclose(counted, stated, rel_tol=ROUNDING)
    return counted == stated


def _check_card(package: Package, card: ModelCard, privacy: PrivacyRecord, evaluation: dict[str, Any]) -> None:
    stated = package.manifest
    if (card.job_id, card.job_sha256, card.consortium) != (stated.job_id, stated.job_sha256, stated.consortium):
        raise changed(f"{layout.CARD} is of another job than {layout.MANIFEST}")
    if card.privacy != privacy.card:
        raise changed(f"{layout.CARD} and {layout.PRIVACY} state different privacy")
    names = package.roster.names()
    if any(names.get(row.site) != row.name or row.last > package.job.job.rounds for row in card.left_out):
        raise changed(f"{layout.CARD} names a site that was left out of no round of {layout.JOB}")
    if to_plain(card.metrics) != evaluation.get("sites"):
        raise changed(f"{layout.CARD} and {layout.EVALUATION} state different metrics")


def _check_evaluation(package: Package, evaluation: dict[str, Any], checked: Checked | None) -> None:
    """Check that the sites took part in what is called their evaluation, as far as a transcript can show it."""
    groups = evaluation.get("subgroups")
    found = results_from_plain(groups)
    written = package.manifest.salus != __version__ or results_to_plain(found) == (groups or {})
    if not written or bool(found) != bool(groups) or not all(one.groups for one in found):
        raise changed(f"{layout.EVALUATION} has a table of subgroups that no export writes")
    if found and {one.attribute for one in found} != set(package.job.evaluation.subgroups):
        raise changed(f"{layout.EVALUATION} has other subgroups than {layout.JOB}")
    if found and not evaluation.get("sites"):
        raise changed(f"{layout.EVALUATION} has subgroups of an evaluation that it does not have")
    if checked is not None and evaluation.get("sites") and checked.verified.evaluated is None:
        raise changed(f"{layout.EVALUATION} has an evaluation at the sites, {layout.TRANSCRIPT} has none")


def _check_inputs(package: Package) -> None:
    described, task = package.json(layout.INPUTS), package.job.task
    same = {
        "task": task.kind,
        "model": task.model,
        "classes": list(task.classes),
        "shape": list(task.shape),
        "channels": task.channels,
        "modality": task.modality,
    }
    if not isinstance(described, dict) or any(described.get(key) != value for key, value in same.items()):
        raise changed(f"{layout.INPUTS} does not describe the model of {layout.JOB}")
    if package.manifest.salus == __version__ and canonical_json(described) != canonical_json(inputs_of(package.job)):
        raise changed(f"{layout.INPUTS} does not describe the inputs and outputs of {layout.JOB}")


def _check_readable(package: Package, records: Records) -> list[str]:
    """Check that the files for people follow from the others; return what remains unproven."""
    if not isinstance(records.software, dict) or records.software.get("salus") != package.manifest.salus:
        raise changed(f"{layout.VERSIONS} names another version of Salus than {layout.MANIFEST}")
    if package.manifest.salus != __version__:
        return [OTHER_WORDS]
    if records.sums is None and records.privacy.transcript is not None:
        return []  # the number of sums is in a transcript that the package leaves out, which is said already
    try:
        wanted = readable_files(records)
    except SalusError:
        raise
    except Exception:  # of values that Salus writes into no record, such as a list in place of versions
        raise changed("its records hold values that no export writes") from None
    for name, data in wanted.items():
        if package.has(name) and package.read(name) != data:
            raise changed(f"{name} does not say what the records of the package say")
    return []


def _check_trees(package: Package, model: Mapping[str, Any]) -> None:
    """Check that the file for XGBoost, if there is one, holds the same trees."""
    if not package.has(layout.TREES):
        return
    try:
        wanted = canonical_json(to_xgboost(model))
    except SalusError:
        wanted = b""
    if package.read(layout.TREES) != wanted:
        raise changed(f"{layout.TREES} does not hold the trees of {layout.SUMS_MODEL}")


def _check_model(package: Package, checked: Checked | None) -> list[str]:
    """Check that the model belongs to the job; return what remains unproven."""
    if package.job.statistics is not None:
        try:
            model = open_model(package.read(layout.SUMS_MODEL), unhex(package.roster.coordinator.public_key))
        except SalusError as problem:
            raise changed(f"{layout.SUMS_MODEL}: {problem.problem.rstrip('.')}") from None
        if (model.job, model.job_sha256) != (package.manifest.job_id, package.manifest.job_sha256):
            raise changed(f"{layout.SUMS_MODEL} is of another job than {layout.MANIFEST}")
        _check_trees(package, model.model)
        if checked is None or checked.verified.evaluated is None:
            return [FROM_SUMS]
        if hashlib.sha256(canonical_json(model.model)).digest() != checked.verified.evaluated:
            raise changed(f"{layout.SUMS_MODEL} is not the model that the sites evaluated at the end of the job")
        return [EVALUATED_SUMS]
    if not package.has(layout.MODEL):
        raise changed(f"the file {layout.MODEL} is missing")
    from salus.common.package.model import check_start, sent_hash  # importing torch takes seconds

    check_start(package)
    digest = sent_hash(package)
    if checked is None or checked.verified.evaluated is None:
        return [NOT_EVALUATED]
    if digest != checked.verified.evaluated:
        raise changed(f"{layout.MODEL} is not the model that the sites evaluated at the end of the job")
    return []
