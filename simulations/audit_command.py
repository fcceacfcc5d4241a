"""`salus audit`: attack a job on this machine, and compare what was learnt with what the job promises."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salus.client.commands.source_options import Columns, LabelColumn, LabelFile, Masks, PatientColumn
from salus.common.console import emit_json, err, example, out, shown, table
from salus.common.errors import ConfigError, ProtectionError
from salus.common.help import DICOM
from salus.server.commands.arguments import StartOption

DRY = "Before a hospital approves a job"

if TYPE_CHECKING:
    from salus.client.data.sources.settings import SourceOptions
    from salus.simulations.auditing.asked import Target
    from salus.simulations.auditing.report import Audit
    from salus.simulations.auditing.run import Effort


def audit(
    target: Annotated[
        Path, typer.Argument(help="The folder of a finished simulation, or a job file with --data, or with --dry.")
    ],
    data: Annotated[Path | None, typer.Option(help="For a job file: what `salus simulate` takes as --data.")] = None,
    sites: Annotated[int, typer.Option(min=1, max=1000, help="For a job file: number of virtual hospitals.")] = 5,
    partition: Annotated[str, typer.Option(help="For a job file: how patients are divided.")] = "iid",
    canaries: Annotated[
        int, typer.Option(min=20, max=20_000, help="Made-up patients; more find smaller faults, and take longer.")
    ] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the canaries, their coin flips and the partition.")] = 0,
    attacks: Annotated[
        str,
        typer.Option(help="Of one-run, membership, inversion, imprint, property, separated by commas; all if empty."),
    ] = "",
    shadows: Annotated[
        int, typer.Option(min=3, max=100, help="Shadow models of membership inference; each runs the job again.")
    ] = 5,
    start: StartOption = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for audit.json and audit.html; default: the simulation's own, or ./audit."),
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry", help="Audit a job file over a hospital's own data.", rich_help_panel=DRY)
    ] = False,
    site: Annotated[Path | None, typer.Option(help="The hospital's folder.", rich_help_panel=DRY)] = None,
    dataset: Annotated[
        str, typer.Option(help="A registered data set; if not given the one that the job names.", rich_help_panel=DRY)
    ] = "",
    json_out: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    labels: LabelFile = "",
    label_column: LabelColumn = "",
    patient_column: PatientColumn = "",
    columns: Columns = "",
    masks: Masks = "",
    volumes: Annotated[
        bool, typer.Option(help="Read each DICOM series as one 3-D image.", rich_help_panel=DICOM)
    ] = False,
) -> None:
    """Attack a job on this machine through its own code, and compare what was learnt with the epsilon that it promises.

    A finished job is run again, because made-up patients cannot be added afterwards. Exit code 41 if the promise is refuted.
    With --dry a hospital sees, before it takes part, what a job would reveal about its own patients; the results stay in
    its folder.
    """
    from salus.client.data.sources.settings import SourceOptions
    from salus.simulations.auditing.run import Effort, chosen_attacks

    effort = Effort(chosen_attacks(attacks), canaries, shadows)
    options = SourceOptions.asked(
        labels=labels, label_column=label_column, patient_column=patient_column, masks=masks, volumes=volumes,
        columns=tuple(part.strip() for part in columns.split(",") if part.strip()),
    )  # fmt: skip
    _check_dry(dry, site, data, output, dataset)
    place = None if site is None else _audits(site)
    with tempfile.TemporaryDirectory(prefix="salus-", dir=place, ignore_cleanup_errors=True) as temporary:
        work = Path(temporary)
        divided = sites, partition, seed, work / "hospitals"
        if site is not None:
            found, about = _own(target, site, dataset, *divided, start)
        else:
            found, about = _target(target, data, options, *divided, start), ""
        result = _run(found, work / "runs", effort, seed, about)
    kept = output or (target if target.is_dir() else Path("audit"))
    _finish(result, kept if site is None else _kept(site, found), json_out)


def _finish(result: "Audit", folder: Path, json_out: bool) -> None:
    from salus.simulations.auditing.report import write_report

    write_report(folder, result)
    emit_json(result.to_json()) if json_out else _show(result, folder)
    if result.refuted:
        raise ProtectionError(result.verdict, remedy="Do not release the model; report this with audit.json.")


def _check_dry(dry: bool, site: Path | None, data: Path | None, output: Path | None, dataset: str) -> None:
    if dry != (site is not None):
        raise ConfigError(
            "Expected --dry and --site together.",
            remedy="A hospital runs: salus audit JOB.toml --dry --site FOLDER --dataset NAME.",
        )
    if dry and (data is not None or output is not None):
        raise ConfigError(
            "A hospital's audit is over a registered data set, and its results stay in the site's folder.",
            remedy="Omit --data and --output; name the data set with --dataset.",
        )
    if dataset and not dry:
        raise ConfigError("--dataset is for --dry.", remedy="Give --data, as to salus simulate.")


def _own(
    target: Path, site: Path, dataset: str, sites: int, partition: str, seed: int, folder: Path, start: Path | None
) -> tuple["Target", str]:
    from dataclasses import replace

    from salus.common.job import load_job
    from salus.common.package.starting import start_from
    from salus.simulations.auditing.dry import own_hospitals

    if target.is_dir():
        raise ConfigError("A hospital audits a job file.", remedy="Give the job file, not a folder.")
    job = load_job(target)
    weights = start_from(job, start)
    found, about = own_hospitals(site, job, dataset, sites=sites, partition=partition, seed=seed, folder=folder)
    return replace(found, start=weights), about


def _audits(site: Path) -> Path:
    """Return the folder of a site's audits, for its owner only; also the work in progress stays there."""
    from salus.client.config import require_site_folder
    from salus.simulations.auditing.dry import AUDITS

    require_site_folder(site)
    place = site / AUDITS
    place.mkdir(mode=0o700, exist_ok=True)
    return place


def _kept(site: Path, target: "Target") -> Path:
    from salus.simulations.auditing.dry import folder_of

    return folder_of(site, target.job)


def _target(
    target: Path,
    data: Path | None,
    options: "SourceOptions",
    sites: int,
    partition: str,
    seed: int,
    folder: Path,
    start: Path | None = None,
) -> "Target":
    from salus.common.job import load_job
    from salus.common.package.starting import start_from
    from salus.simulations.auditing.asked import Target
    from salus.simulations.auditing.finished import finished_run
    from salus.simulations.virtual import make_hospitals

    if target.is_dir():
        if data is not None:
            raise ConfigError("A finished simulation has its own data.", remedy="Omit --data.")
        if start is not None:
            raise ConfigError("A finished simulation has its own start.", remedy="Omit --start.")
        return finished_run(target, folder)
    job = load_job(target)
    if data is None or not data.exists():
        raise ConfigError("Expected data for the job to be audited over.", remedy="Give --data, as to salus simulate.")
    weights = start_from(job, start)
    make_hospitals(job, data, options, sites=sites, partition=partition, seed=seed, folder=folder)
    return Target(job, folder, sites, start=weights)


def _run(target: "Target", folder: Path, effort: "Effort", seed: int, about: str) -> "Audit":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
    )

    from salus.client.performance import Performance
    from salus.simulations.auditing.run import audit as attacked

    parts = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*parts, console=err, transient=True) as progress:
        bars: dict[str, TaskID] = {}

        def tell(attack: str, done: int, of: int) -> None:
            if attack not in bars:
                for before in bars.values():
                    progress.stop_task(before)
                bars[attack] = progress.add_task(attack, total=of)
            progress.update(bars[attack], completed=done, total=of)

        return attacked(target, folder, effort, seed=seed, performance=Performance(), tell=tell, about=about)


def _show(audit: "Audit", folder: Path) -> None:
    from salus.simulations.auditing.report import matrix

    columns, rows = matrix(audit)
    table(f"Attacks on {audit.job.job.name}", columns, rows)
    for one in audit.tried:
        if one.value is None:
            out.print(f"{one.attack}, {one.against}: {one.text}", markup=False, soft_wrap=True)
    took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in audit.seconds.items())
    out.print(f"Time: {took}", markup=False, soft_wrap=True)
    if audit.about:
        out.print(audit.about, markup=False, soft_wrap=True)
        for one in audit.tried:
            if one.plainly:
                out.print(f"- {one.against}: {one.plainly}", markup=False, soft_wrap=True)
    out.print(audit.verdict, markup=False, soft_wrap=True)
    out.print(f"Page: {shown(folder / 'audit.html')}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=example("salus audit simulations/jobs/phantom-lesion.toml --sites 5 --data phantoms/npz/phantoms.npz")
    )(audit)
