"""`salus job`: validate, check, sign and submit jobs; `following` has the commands for submitted ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from salus.common.console import emit_json, example, group, out, shown, table
from salus.common.errors import JobError
from salus.common.job import Job
from salus.server.commands import following, job_files, stopping
from salus.server.commands.arguments import Folder, JobFile, OutlineOption, StartOption
from salus.server.commands.canary import try_out

if TYPE_CHECKING:  # its import takes seconds, and most commands do not need it
    from salus.privacy.dp.plan import Plan

app = group("Check, sign, submit, follow and cancel jobs.")
following.register(app)
stopping.register(app)
job_files.register(app)


@app.command(epilog=example("salus job validate simulations/jobs/pneumonia.toml"))
def validate(
    path: JobFile, sites: Annotated[int, typer.Option(min=1, help="Number of sites on the roster.")] = 5
) -> None:
    """Check a job file: every key, the model, the task, and the guarantees of its protection."""
    from salus.common.cost import cost_of, megabytes
    from salus.common.job import load_job
    from salus.privacy.protection import protection_of
    from salus.server.checks import check_job

    job = load_job(path)
    check_job(job, sites=max(job.job.min_sites, sites))
    rows = [
        ("job", job.job.name),
        ("rounds", job.job.rounds),
        _what(job),
        ("memory per site, about", f"{megabytes(cost_of(job).memory_bytes)} MB"),
        *([("starts from", job.start.package)] if job.start else []),
        ("hash", job.digest().hex()[:16]),
        ("protection", job.aggregation.protection),
        ("the coordinator can read", protection_of(job).promise(max(job.job.min_sites, sites))),
        *_privacy_rows(job, sites),
    ]
    table(path.name, ["", ""], rows)
    if job.statistics is None:
        _show_transforms(job)


def _show_transforms(job: Job) -> None:
    from salus.common.tasks import make_task
    from salus.common.transforms.checks import check_chain, shown_fields

    stages = check_chain(make_task(job.task))
    if stages:
        rows = [(stage.name, shown_fields(stage.spec)) for stage in stages]
        table("Transforms, and the size of what each one gives (? depends on the image)", ["", ""], rows)


def _what(job: Job) -> tuple[str, object]:
    from salus.common.models import build_model
    from salus.common.vectors import layout_of

    if job.statistics is not None:
        return "statistics", job.statistics.kind
    return "model", f"{job.task.model}, {layout_of(build_model(job.task, 0)).size:,} trained parameters"


def _privacy_rows(job: Job, sites: int) -> list[tuple[str, object]]:
    from salus.privacy.dp.plan import plan_of
    from salus.privacy.records.card import privacy_card
    from salus.server.exactness import exactness

    card, plan = privacy_card(job, None, dict.fromkeys(range(1, sites + 1), "")), plan_of(job)
    rows: list[tuple[str, object]] = [("privacy per patient", card.statement)]
    if plan is not None:
        rows += [
            ("noise", f"{plan.mode}, multiplier {plan.noise_multiplier:g}"),
            ("steps with noise", f"{plan.steps} in each of {plan.attempts} rounds, including spare rounds"),
            ("privacy cost per patient", _cost(plan)),
            ("assumption", card.assumes),
        ]
    if sentence := exactness(job, sites):
        rows.append(("evaluation", sentence))
    return rows


def _cost(plan: "Plan") -> str:
    """Return a job's share of the default budget of a site policy; a site may have set another budget."""
    from salus.privacy.dp.plan import BUDGET_DAYS, BUDGET_DELTA, BUDGET_EPSILON, budget_cost

    cost = budget_cost(plan)
    share = f"{cost / BUDGET_EPSILON:.0%} of a site's default budget of {BUDGET_EPSILON:g} in {BUDGET_DAYS} days"
    warning = "; sites with the default budget will refuse this job" if cost > BUDGET_EPSILON else ""
    return f"epsilon {cost:.2f} at delta {BUDGET_DELTA:g}: {share}{warning}"


@app.command(epilog=example("salus job sign ./coordinator simulations/jobs/pneumonia.toml --output signed.json"))
def sign(
    folder: Folder, path: JobFile, output: Annotated[Path, typer.Option(help="File to write the signed job to.")]
) -> None:
    """Sign a job with the coordinator's key."""
    from salus.common.identity import Identity
    from salus.common.job import load_job, seal_job
    from salus.common.kit import SIGNING_KEY

    signed = seal_job(load_job(path), Identity.load(folder / "keys" / SIGNING_KEY))
    output.write_bytes(signed.to_bytes() + b"\n")
    out.print(f"Signed {shown(path.name)} and wrote {shown(output)}.")


@app.command(epilog=example("salus job submit ./coordinator simulations/jobs/pneumonia.toml"))
def submit(
    folder: Folder,
    path: JobFile,
    start: StartOption = None,
    outline: OutlineOption = None,
    follow: Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Queue the job even if too few sites can run it.")] = False,
    canary: Annotated[
        bool, typer.Option("--canary", help="Only try it out: one round of zeros, of which nothing is kept.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --canary: print JSON.")] = False,
) -> None:
    """Submit a job file or a signed job to the running coordinator; exit code 44 if too few sites can run it."""
    from salus.common.strict import read_text
    from salus.server.admin_client import AdminClient
    from salus.server.exactness import exactness
    from salus.server.submission import job_in

    client, text = AdminClient(folder), read_text(path, error=JobError, what="job file")
    _keep(folder, text, start, outline)
    if sentence := exactness(job_in(text), len(client.get("/status")["sites"])):
        out.print(sentence, soft_wrap=True)
    if canary:
        try_out(folder, text, as_json=as_json)
        return
    job_id = client.post("/jobs", text, anyway=anyway)["job"]
    out.print(f"Submitted [bold]{shown(job_id)}[/].")
    for absent in client.get(f"/jobs/{job_id}")["absent"]:
        out.print(f"Not asked now: site {absent['site']}, {absent['name']}: {absent['reason']}", markup=False)
    if follow:
        following.watch(folder, job_id)


def _keep(folder: Path, text: str, start: Path | None, outline: Path | None) -> None:
    """Put a job's start and outline into the coordinator's folder, where its daemon looks for them; they may be there already."""
    from salus.common.package.starting import start_from
    from salus.common.start.store import STARTS, CoordinatorStarts
    from salus.server.outline import OUTLINES, Outlines, read_file
    from salus.server.submission import job_in

    job = job_in(text)
    if outline is not None:
        Outlines(folder / OUTLINES).put(job, read_file(outline))
    weights = start_from(job, start) if start is not None else None
    if job.start is not None and weights is not None:
        CoordinatorStarts(folder / STARTS).put(job.start, weights)


@app.command(epilog=example("salus job check ./coordinator simulations/jobs/pneumonia.toml"))
def check(
    folder: Folder,
    path: JobFile,
    start: StartOption = None,
    outline: OutlineOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask all sites whether they could run a job, without queueing it; exit code 44 if too few could."""
    from salus.common.errors import UnfitError
    from salus.common.strict import read_text
    from salus.server.admin_client import AdminClient
    from salus.server.commands.checking import show_check
    from salus.server.exactness import exactness
    from salus.server.submission import job_in

    text = read_text(path, error=JobError, what="job file")
    client = AdminClient(folder)
    _keep(folder, text, start, outline)
    found = client.post("/check", text)
    if as_json:
        emit_json(found)
    else:
        show_check(found, _cost_of(text), _named_classes(text))
        if sentence := exactness(job_in(text), len(found["sites"])):
            out.print(sentence, soft_wrap=True)
    if not found["possible"]:
        raise typer.Exit(UnfitError.exit_code)


def _named_classes(text: str) -> str:
    """Return the data set of a job that names its classes; empty for any other job."""
    from salus.server.submission import job_in

    task = job_in(text).task
    return "" if not task.classes or any(name.isdecimal() for name in task.classes) else task.dataset


def _cost_of(text: str) -> str:
    """Return a job's cost to each patient's budget, or an empty string for a job without noise."""
    from salus.privacy.dp.plan import plan_of
    from salus.server.submission import job_in

    plan = plan_of(job_in(text))
    return "" if plan is None else _cost(plan)


@app.command("list", epilog=example("salus job list ./coordinator"))
def list_(folder: Folder, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List all jobs; below the table stands why one waits, or how one ended, such as "Aborted: ...", if there is more to say."""
    from salus.server.admin_client import AdminClient

    rows = AdminClient(folder).get("/jobs")
    if as_json:
        emit_json(rows)
    else:
        table(
            "",
            ["job", "status", "submitted (UTC)"],
            [(r["job"], _status(r), r["submitted_at"][:19].replace("T", " ")) for r in rows],
        )
        for r in rows:
            if r["reason"]:  # below the table, so that ids are not broken
                out.print(f"{shown(r['job'])}: {shown(_reason(r))}", highlight=False, soft_wrap=True)


def _reason(row: dict[str, Any]) -> str:
    """Return why a job waits, or how it ended and why."""
    return str(row["reason"]) if row.get("place") else f"{str(row['status']).capitalize()}: {row['reason']}"


def _status(row: dict[str, Any]) -> str:
    """Return a job's status with its place in the queue."""
    return f"{row['status']}, place {row['place']}" if row.get("place") else str(row["status"])
