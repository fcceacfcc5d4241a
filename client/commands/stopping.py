"""`salus client stop-job`: end the work for a job at this site."""

from pathlib import Path
from typing import Annotated

import typer

from salus.common.console import example, out, shown
from salus.common.errors import ConfigError


def stop_job(
    folder: Annotated[Path, typer.Argument(help="The site's folder.")],
    job: Annotated[str, typer.Argument(help="The job's id; by default the one that the site works for now.")] = "",
    allow: Annotated[bool, typer.Option("--allow", help="Allow a stopped job again.")] = False,
) -> None:
    """Stop a job at this site: its work ends at once, and the site refuses it from now on. Other jobs and the daemon go on."""
    from pydantic import TypeAdapter, ValidationError

    from salus.client.config import require_site_folder
    from salus.client.executors.stopped import StoppedJobs, job_at_work
    from salus.common.events import read_events
    from salus.common.packets import JobId

    require_site_folder(folder)
    named = job or job_at_work(folder)
    if not named:
        last = next(
            (str(e.fields["job"]) for e in reversed(read_events(folder / "events.jsonl")) if e.fields.get("job")), ""
        )
        raise ConfigError(
            "This site works for no job at this moment; between two requests of a job it waits for the next one."
            f"{f' The last job here was {last!r}.' if last else ''}",
            remedy=f"Name the job: salus client stop-job FOLDER {last or 'JOB'}.",
        )
    try:
        TypeAdapter(JobId).validate_python(named)
    except ValidationError:
        raise ConfigError("That is not the id of a job.", remedy="See salus client status.") from None
    stopped = StoppedJobs(folder)
    if allow:
        stopped.remove(named)
        out.print(f"Job [bold]{shown(named)}[/] may run here again.")
    else:
        stopped.add(named)
        out.print(f"Stopped job [bold]{shown(named)}[/] at this site. Allow it again with --allow.", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command to `salus client`."""
    app.command("stop-job", epilog=example("salus client stop-job ./site tiny-0001"))(stop_job)
