"""A finished job as a package: what was recorded while it ran, checked once more, and signed by its coordinator."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from salus.common.canonical import canonical_json
from salus.common.clock import Clock
from salus.common.errors import IdentityError, JobError
from salus.common.estimates import to_plain
from salus.common.models import build_model
from salus.common.models.lora import merged
from salus.common.package import layout
from salus.common.package.describing import inputs_of
from salus.common.package.layout import Manifest
from salus.common.package.writing import write_package
from salus.common.roster import Roster, read_roster
from salus.common.start.applying import stored_layout
from salus.common.subgroups.results import results_to_plain
from salus.common.sums.signed_model import open_model
from salus.common.sums.xgboost_json import to_xgboost
from salus.common.vectors import write_parameters
from salus.privacy.protection import protection_of
from salus.privacy.records.card import model_card
from salus.privacy.records.privacy import privacy_record
from salus.privacy.records.readable import Records, readable_files
from salus.privacy.records.transcripts import verify_bytes
from salus.server.checkpoints import METADATA_OF_FILE
from salus.server.dropped import left_out_of
from salus.server.packaging.runs import FinishedRun
from salus.server.packaging.software import bill_of_materials, versions
from salus.server.quality import evaluation_in, figures_in, subgroups_in

Content = bytes | Callable[[Path], object]
Contents = dict[str, Content]


@dataclass(frozen=True)
class Wanted:
    """What a package holds beside the model as Salus reads it.

    Args:
        onnx: the network as ONNX.
        bundle: the network as a bundle of MONAI.
    """

    onnx: bool = False
    bundle: bool = False


def export_package(run: FinishedRun, folder: Path, clock: Clock, wanted: Wanted = Wanted()) -> Manifest:
    """Write the package of a finished job to a new folder, and beside it as a zip; returns the manifest.

    Raises:
        JobError: the job has no model, or it cannot be written in a form that is wanted.
        ProtectionError: its transcript is not valid.
        IdentityError: this coordinator is not the one on the roster with which the job began.
        ConfigError, StorageError: the package cannot be written there.
    """
    roster = read_roster(run.signed_roster, run.consortium_key)
    if roster.coordinator.public_key != run.coordinator.public_key.hex():
        raise IdentityError(
            "The coordinator's key has changed since the job began, so it cannot sign the job's package.",
            remedy="Restore the key with which the job was signed.",
        )
    return write_package(
        folder,
        contents_of(run, roster) | _other_forms(run, wanted),
        job_id=run.job_id,
        job=run.job,
        roster=roster,
        signed_roster=run.signed_roster,
        consortium_key=run.consortium_key,
        coordinator=run.coordinator,
        created=clock.now(),
    )


def contents_of(run: FinishedRun, roster: Roster) -> Contents:
    """Return the files of a package by name; errors as in `export_package`."""
    if not run.model.exists():
        raise JobError(
            f"The job {run.job_id!r} has no model: its statistics are only numbers.",
            remedy="Export a job that trains a model, or whose statistics make one.",
        )
    kept = protection_of(run.job).transcript
    verified = verify_bytes(run.transcript, "transcript.jsonl", run.consortium_key).verified if kept else None
    included = kept and len(run.transcript) <= layout.LIMITS[layout.TRANSCRIPT]
    privacy = privacy_record(run.job, roster, verified, run.transcript if kept else None, included=included)
    metrics = evaluation_in(run.events)
    missing = left_out_of(run.records, run.events, roster.names())
    card = model_card(run.job_id, run.job, privacy.card, metrics, roster.consortium, missing)
    evaluation, software = _evaluation(run), versions()
    sums = None if verified is None else len(verified.sums)
    found: Contents = {
        layout.JOB: run.signed.to_bytes(),
        layout.ROSTER: run.signed_roster.to_bytes(),
        layout.INPUTS: canonical_json(inputs_of(run.job)),
        layout.CARD: canonical_json(card.model_dump(mode="json")),
        layout.PRIVACY: canonical_json(privacy.model_dump(mode="json")),
        layout.EVALUATION: canonical_json(evaluation),
        layout.VERSIONS: canonical_json(software),
        layout.SBOM: canonical_json(bill_of_materials()),
        **readable_files(Records(run.job, roster, card, privacy, evaluation, software, sums)),
        **_model(run),
    }
    if included:
        found[layout.TRANSCRIPT] = run.transcript
    return found


def _model(run: FinishedRun) -> Contents:
    if run.job.statistics is not None:
        return {layout.SUMS_MODEL: run.model.read_bytes()}
    shape = stored_layout(run.job, build_model(run.job.task, run.job.job.seed))
    model, _ = run.checkpoints.load_model(run.job_id, run.job.job.rounds, shape)
    tensors: dict[str, Any] = dict(shape.unflatten(model))  # without what the strategy keeps for further rounds
    listed = {} if run.start is None else {layout.START: run.start.document}
    return {layout.MODEL: lambda path: save_file(tensors, path, METADATA_OF_FILE), **listed}


def _other_forms(run: FinishedRun, wanted: Wanted) -> Contents:
    """Return the model in forms that other programs read; trees always, because they need nothing further."""
    if run.job.statistics is None:
        return _graphs(run, wanted) if wanted.onnx or wanted.bundle else {}
    if wanted.onnx or wanted.bundle:
        raise JobError(
            f"The model of statistics of kind {run.job.statistics.kind!r} is no network, so it cannot be written as ONNX.",
            remedy="Leave out --onnx and --bundle; model.json is plain numbers, and trees are also written for XGBoost.",
        )
    model = open_model(run.model.read_bytes(), run.coordinator.public_key).model
    try:
        return {layout.TREES: canonical_json(to_xgboost(model))}
    except JobError:  # no trees, or more than two classes
        return {}


def _graphs(run: FinishedRun, wanted: Wanted) -> Contents:
    from salus.server.packaging.bundle import bundle_of
    from salus.server.packaging.graph import to_onnx

    network = build_model(run.job.task, run.job.job.seed)
    shape = stored_layout(run.job, network)
    write_parameters(network, shape, run.checkpoints.load_model(run.job_id, run.job.job.rounds, shape)[0])
    graph = to_onnx(run.job, merged(network).eval())
    found: Contents = {layout.ONNX: graph.data, layout.ONNX_FACTS: canonical_json(graph.facts)} if wanted.onnx else {}
    if wanted.bundle:
        described, config = bundle_of(run.job, graph)
        found[layout.BUNDLE_METADATA] = canonical_json(described)
        found[layout.BUNDLE_CONFIG] = canonical_json(config)
        found[layout.BUNDLE_NETWORK] = graph.data
    return found


def _evaluation(run: FinishedRun) -> dict[str, Any]:
    last = run.records[-1] if run.records else {}
    reasons = [str(event.fields.get("text", "")) for event in run.events if event.kind == "not-evaluated"]
    return {
        "format": 1,
        "sites": to_plain(evaluation_in(run.events)),
        "figures": figures_in(run.events).model_dump(mode="json"),
        "subgroups": results_to_plain(subgroups_in(run.events)),
        "least_patients_of_a_group": run.job.evaluation.min_patients,
        "test": last.get("metrics") or {},  # of a simulation: patients whom no site holds
        "not_evaluated": reasons[-1] if reasons else "",
    }
