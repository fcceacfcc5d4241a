"""`salus release`: a package signed as complete, or refused with what is missing."""

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from salus.common.console import emit_json, example, out, shown
from salus.common.errors import ConfigError, PackageError


def release(
    run: Annotated[Path, typer.Argument(help="Folder of salus simulate --output, or the coordinator's folder.")],
    package: Annotated[
        Path | None, typer.Argument(help="The package; by default the newest that was exported from RUN.")
    ] = None,
    job: Annotated[str, typer.Option(help="Id of the job, where the folder has several finished ones.")] = "",
    audit: Annotated[Path | None, typer.Option(help="The audit.json of the job; by default that in RUN.")] = None,
    reason: Annotated[
        str,
        typer.Option(help="Why a model from sums, or a network with a wide layer on the raw input, is released."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Sign a package as released, if its records are complete and an audit does not refute its claim; exit code 14 if not.

    Needed: a transcript that verifies, the ledger head of every site, an evaluation with subgroups, an audit, no layer that
    reveals samples without a reason, licences of all software. A model from sums without noise needs a reason, not an audit.
    """
    from salus.common.clock import SystemClock
    from salus.common.package import layout
    from salus.common.package.adding import add_files
    from salus.common.package.checking import checked_package
    from salus.privacy.records.package import evidence_of
    from salus.privacy.records.release import Release, missing_for_release, seal_release, statements_of, unaudited
    from salus.server.packaging.runs import exported_package, open_run

    finished = open_run(run, job)
    package = package or exported_package(run, finished.job_id)
    audited = not unaudited(finished.job)
    found = _audit_of(audit or run / layout.AUDIT, given=audit is not None) if audited else None
    with checked_package(package, finished.consortium_key) as checked:
        if checked.manifest.job_id != finished.job_id:
            raise ConfigError(
                f"The package is of the job {checked.manifest.job_id!r}.",
                remedy=f"Give the package of {finished.job_id}.",
            )
        gaps = missing_for_release(checked, evidence_of(checked), found, reason)
        if as_json and gaps:
            emit_json({"released": False, "missing": gaps})
        if gaps:
            raise PackageError(f"Not released: {'; '.join(gaps)}.", remedy="See docs/package.md, Release.")
        signed = Release(
            package=checked.sha256,
            audit_sha256=None if found is None else hashlib.sha256(found).hexdigest(),
            reason=reason,
            statements=statements_of(checked.job, found),
            at=SystemClock().now(),
        )
    attached = {} if found is None else {layout.AUDIT: found}
    add_files(package, {**attached, layout.RELEASE: seal_release(signed, finished.coordinator)})
    if as_json:
        emit_json({"released": True, "path": str(package), **signed.model_dump(mode="json")})
        return
    out.print(f"Released: {shown(package)}", soft_wrap=True)
    for sentence in signed.statements:
        out.print(f"- {sentence}", markup=False, soft_wrap=True)


def _audit_of(path: Path, *, given: bool) -> bytes | None:
    from salus.common.package import layout

    if not path.exists() and not given:
        return None
    if not path.is_file():  # a pipe would be waited for
        raise ConfigError(f"Expected the audit {path.name!r} to be a file.", remedy="Check --audit.")
    try:
        with path.open("rb") as file:
            data = file.read(layout.LIMITS[layout.AUDIT] + 1)
    except OSError:
        raise ConfigError(f"Cannot read the audit {path.name!r}.", remedy="Check --audit.") from None
    if len(data) > layout.LIMITS[layout.AUDIT]:
        raise ConfigError(f"The file {path.name!r} is too large for an audit.", remedy="Check --audit.")
    return data


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=example("salus release ./run"))(release)
