"""`salus model`: a finished job as a package, a package taken in, and what it holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salus.common.console import emit_json, example, group, out, shown, table
from salus.common.errors import ConfigError

if TYPE_CHECKING:
    from salus.common.package.checking import Package
    from salus.privacy.records.package import Evidence
    from salus.privacy.records.release import Endorsement, Release

app = group("Export a finished model as a package, take in a package, show what it holds.")

PackagePath = Annotated[Path, typer.Argument(help="The folder or the zip of a package.")]
KitOption = Annotated[
    Path | None, typer.Option(help="Any kit of the consortium, also an expired one; its key verifies the roster.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog=example("salus model export ./run ./package"))
def export(
    run: Annotated[Path, typer.Argument(help="Folder of salus simulate --output, or the coordinator's folder.")],
    package: Annotated[Path, typer.Argument(help="The new folder; a zip with the same files is written beside it.")],
    job: Annotated[str, typer.Option(help="Id of the job, where the folder has several finished ones.")] = "",
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write the network as ONNX, compared with torch.")] = False,
    bundle: Annotated[bool, typer.Option("--bundle", help="Also write a bundle that MONAI's runner executes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a finished model as a package: parameters, signed job and roster, cards, evaluation, transcript, versions."""
    from salus.common.clock import SystemClock
    from salus.common.identity import fingerprint, unhex
    from salus.common.package.writing import zip_beside
    from salus.server.packaging.collecting import Wanted, export_package
    from salus.server.packaging.runs import note_export, open_run

    manifest = export_package(open_run(run, job), package, SystemClock(), Wanted(onnx=onnx, bundle=bundle))
    note_export(run, manifest.job_id, package)
    if as_json:
        emit_json({"package": str(package), "zip": str(zip_beside(package)), **manifest.model_dump(mode="json")})
        return
    out.print(f"Package of {shown(manifest.job_id)}: {shown(package)} and {shown(zip_beside(package))}", soft_wrap=True)
    table("", ["file", "bytes"], [(line.name, f"{line.size:,}") for line in manifest.files])
    out.print(f"Key of the consortium: {fingerprint(unhex(manifest.consortium_key))}", highlight=False, soft_wrap=True)


@app.command("import", epilog=example("salus model import ./site ./package.zip"))
def import_(
    folder: Annotated[
        Path,
        typer.Argument(help="A site's or coordinator's folder, or with --kit any folder; it goes to packages/ there."),
    ],
    package: PackagePath,
    kit: KitOption = None,
    as_json: AsJson = False,
) -> None:
    """Check a package against the consortium's key that is pinned here, and take it in if everything holds."""
    from salus.common.package.pinning import pinned_key
    from salus.server.packaging.importing import import_package

    where, found, _ = import_package(package, folder, pinned_key(folder, kit))
    if as_json:
        emit_json({"package": str(where), **found.model_dump(mode="json")})
    else:
        out.print(f"The package is valid. Taken in: {shown(where)}", soft_wrap=True)


@app.command(epilog=example("salus model show ./package.zip"))
def show(package: PackagePath, kit: KitOption = None, as_json: AsJson = False) -> None:
    """Check a package and show what it holds: the job, the model's metrics, the privacy of the patients, the software."""
    from salus.common.package.checking import checked_package
    from salus.privacy.records.package import evidence_of
    from salus.privacy.records.release import endorsements_of, release_of

    with checked_package(package, key_of(kit)) as found:
        evidence = evidence_of(found)
        release, endorsements = release_of(found, evidence), endorsements_of(found)
        if as_json:
            emit_json(
                summary_of(found, evidence)
                | {
                    "release": None if release is None else release.model_dump(mode="json"),
                    "endorsements": [one.model_dump(mode="json") for one in endorsements],
                }
            )
            return
        show_package(found, evidence)
        show_signatures(found, release, endorsements)


@app.command(epilog=example("salus model start ./package.zip"))
def start(
    package: PackagePath,
    job: Annotated[
        Path | None, typer.Option(help="A job file; it is written to --output with the section start.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The new file, with --job.")] = None,
    kit: KitOption = None,
    as_json: AsJson = False,
) -> None:
    """Check a package and print what a job file says to start from it, and the parts that its model has."""
    from salus.common.package.checking import checked_package
    from salus.common.package.model import weights_in
    from salus.common.start.weights import PREFIX

    with checked_package(package, key_of(kit)) as found:
        weights, name, task = weights_in(found), PREFIX + found.sha256, found.job.task
    if (job is None) != (output is None):
        raise ConfigError("Expected --job and --output together.", remedy="Name both files.")
    if job is not None and output is not None:
        write_started(job, output, name, weights.digest)
    if as_json:
        parts = {line.name: list(line.shape) for line in weights.lines}
        emit_json({"package": name, "weights": weights.digest, "model": task.model, "parameters": parts})
        return
    out.print(f'[start]\npackage = "{name}"\nweights = "{weights.digest}"', markup=False, soft_wrap=True)
    table(
        f"Parameters of {task.model} for {task.kind}: beginnings of their names go into new, trainable and frozen",
        ["parameter", "shape"],
        [(line.name, " x ".join(map(str, line.shape))) for line in weights.lines],
    )


def write_started(job: Path, output: Path, package: str, weights: str) -> None:
    """Write a job file with the section start to a new file; raises JobError or ConfigError."""
    from salus.common.errors import JobError
    from salus.common.strict import read_text
    from salus.server.packaging.starting import with_start

    text = with_start(read_text(job, error=JobError, what="job file"), package, weights)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as problem:
        raise ConfigError(
            f"Cannot write {output.name!r}: {problem.strerror}.", remedy="Choose another --output."
        ) from None


def key_of(kit: Path | None) -> bytes | None:
    """Return the consortium's key in a kit; None without a kit."""
    from salus.common.identity import unhex
    from salus.common.kit import read_kit

    return None if kit is None else unhex(read_kit(kit).consortium_key)


def summary_of(package: "Package", evidence: "Evidence") -> dict[str, object]:
    """Return what is known about a checked package as plain JSON."""
    return {
        "package": package.sha256,
        "manifest": package.manifest.model_dump(mode="json"),
        "card": evidence.card.model_dump(mode="json"),
        "sums": [] if evidence.verified is None else evidence.verified.sums,
        "ledger_heads": {line.site: line.opened(package.roster).length for line in evidence.privacy.heads},
        "without_ledger_head": list(evidence.without_head),
        "pinned": package.pinned,
        "not_shown": list(evidence.unproven),
    }


def show_package(package: "Package", evidence: "Evidence") -> None:
    """Print what is known about a checked package."""
    from salus.common.estimates import metric_text
    from salus.common.identity import fingerprint, unhex

    manifest, task, card = package.manifest, package.job.task, evidence.card
    what = package.job.statistics.kind if package.job.statistics else f"{task.model} for {task.kind}"
    out.print(
        f"The package is valid: job {shown(manifest.job_id)}, roster {package.roster.serial} of "
        f"[bold]{shown(manifest.consortium)}[/], {len(package.roster.sites)} sites.",
        soft_wrap=True,
    )
    rows = [
        ("model", what),
        ("classes", ", ".join(task.classes)),
        *([("starts from the package", package.job.start.package)] if package.job.start else []),
        ("data set", task.dataset),
        ("written", f"{manifest.created:%Y-%m-%d %H:%M} UTC by Salus {manifest.salus}"),
        ("sums in the transcript", "none" if evidence.verified is None else len(evidence.verified.sums)),
        ("hash of the package", package.sha256),
        ("key of the consortium", fingerprint(unhex(manifest.consortium_key))),
    ]
    table("", ["", ""], rows)
    if card.metrics:
        table("At the sites", ["", ""], [(name, metric_text(value)) for name, value in card.metrics.items()])
    heads = {line.site: line.opened(package.roster).length for line in evidence.privacy.heads}
    table(
        f"Privacy: {card.privacy.statement}",
        ["site", "vectors", "epsilon", "delta", "ledger"],
        [
            (
                row.name,
                row.attempts,
                "none" if row.epsilon is None else f"{row.epsilon:.3f}",
                row.delta,
                f"{heads[row.site]} entries" if row.site in heads else "-",
            )
            for row in card.privacy.sites
        ],
    )
    out.print("The package cannot prove:", soft_wrap=True)
    for sentence in evidence.unproven:
        out.print(f"- {sentence}", markup=False, soft_wrap=True)


def show_signatures(package: "Package", release: "Release | None", endorsements: "Sequence[Endorsement]") -> None:
    """Print whether a package is released, and which sites endorse it."""
    if release is None:
        out.print("Not released.")
    else:
        out.print(f"Released on {release.at:%Y-%m-%d %H:%M} UTC:")
        for sentence in (*release.statements, *([f"reason: {release.reason}"] if release.reason else [])):
            out.print(f"- {sentence}", markup=False, soft_wrap=True)
    names = package.roster.names()
    for one in endorsements:
        known = ", which found its ledger head in its own ledger" if one.ledger else ""
        text = f"Endorsed on {one.at:%Y-%m-%d} by {names[one.site]} (site {one.site}){known}."
        out.print(text, markup=False, soft_wrap=True)
