"""`salus stats`: statistics over all sites through the protected sum."""

from pathlib import Path
from typing import Annotated, Any

import typer

from salus.common.console import emit_json, example, out, shown, table
from salus.common.errors import JobError


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=example("salus stats ./coordinator simulations/jobs/phantom-statistics.toml"))(stats)


def stats(
    folder: Annotated[Path, typer.Argument(help="The coordinator's folder.")],
    job: Annotated[str, typer.Argument(help="A job file with a [statistics] section, or the id of a finished job.")],
    weights: Annotated[
        bool, typer.Option("--weights", help="Print class weights for a training job, and nothing else.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Queue the job even if too few sites can run it.")] = False,
) -> None:
    """Compute statistics over all sites without revealing any single site: counts, histograms, quantiles, harmonisation."""
    from salus.common.job import load_job
    from salus.common.strict import read_text
    from salus.server.admin_client import AdminClient
    from salus.server.commands.following import watch

    client, path = AdminClient(folder), Path(job)
    job_id = job
    if path.exists():
        if load_job(path).statistics is None:
            raise JobError(
                f"Expected a [statistics] section in {path.name!r}.",
                remedy="Use `salus job submit` for a training job.",
            )
        text = read_text(path, error=JobError, what="job file")
        job_id = client.post("/jobs", text, anyway=anyway)["job"]
        watch(folder, job_id)
    found = client.get(f"/jobs/{job_id}")
    if not found.get("statistics"):
        raise JobError(f"The job {job_id!r} has no finished statistics.", remedy="See salus job list.")
    if weights:
        from salus.server.class_weights import weights_section

        out.print(weights_section(found["classes"], found["statistics"]), markup=False, soft_wrap=True, end="")
        return
    if as_json:
        emit_json(found["statistics"])
        return
    show(found["statistics"])
    if found["transforms"]:
        out.print(found["transforms"], markup=False, soft_wrap=True)
    out.print(f"Report: {shown(found['report'])}", soft_wrap=True)


def show(result: dict[str, Any]) -> None:
    """Print the results of statistics as tables; of histograms, only the cells that are not empty."""
    from salus.server.statistics_report import tables_of

    for section in tables_of(result):
        rows = section.rows or [(name, f"{value:.6g}") for name, value in section.bars if value]
        table(section.title, section.columns or ["", ""], rows)
