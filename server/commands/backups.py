"""`salus server backup` and `restore`."""

from pathlib import Path
from typing import Annotated

import typer

from salus.common.clock import SystemClock
from salus.common.console import example, out, shown
from salus.server.commands.arguments import Folder


def register(app: typer.Typer) -> None:
    """Add the commands to `salus server`."""
    app.command(epilog=example("salus server backup ./coordinator ./backups/2026-11-27"))(backup)
    app.command(epilog=example("salus server restore ./coordinator ./backups/2026-11-27"))(restore)


def backup(folder: Folder, target: Annotated[Path, typer.Argument(help="A new folder for the backup.")]) -> None:
    """Back up a coordinator, also while it runs: database, models, transcripts, reports, rosters, settings and keys."""
    from salus.server.backup import UNFINISHED
    from salus.server.backup import backup as make

    manifest = make(folder, target, SystemClock())
    size = sum(entry.bytes for entry in manifest.files.values()) + manifest.database.bytes
    active = sum(job.status in UNFINISHED for job in manifest.jobs.values())
    out.print(
        f"Backed up {_jobs(len(manifest.jobs))} ({active} unfinished) and {len(manifest.files)} files "
        f"({size / 1e6:.1f} MB) to {target}.",
        soft_wrap=True,
        markup=False,
    )
    out.print(
        "[bold red]The backup holds the coordinator's secret keys:[/] whoever can read it can sign jobs in its name. Its files "
        "have mode 600; keep it as you keep the coordinator.",
        soft_wrap=True,
    )


def restore(
    folder: Annotated[Path, typer.Argument(help="A new folder for the coordinator.")],
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="The folder of the backup.")],
    database: Annotated[
        str,
        typer.Option(
            help="Move the jobs to another database: the URL of an empty PostgreSQL database, without the password, or "
            '"sqlite" for a file in the folder. Without it, where the backup has them.'
        ),
    ] = "",
    database_password_file: Annotated[
        str,
        typer.Option(
            help="File with that database's password, as an absolute path; without it, the variable SALUS_DATABASE_PASSWORD."
        ),
    ] = "",
) -> None:
    """Restore a coordinator from a backup, after every hash was compared; nothing that exists is overwritten."""
    from salus.server.restoring import restore as bring_back

    manifest, numbers = bring_back(folder, source, database, database_password_file)
    running = [job for job, saved in manifest.jobs.items() if saved.status in ("waiting", "running")]
    out.print(
        f"Restored {_jobs(len(manifest.jobs))} as of {manifest.made:%Y-%m-%d %H:%M} UTC to {folder}; "
        f"{_jobs(len(running))} will continue when the coordinator starts.",
        soft_wrap=True,
        markup=False,
    )
    out.print(
        f"New attempts are numbered from {numbers.first_attempt} and new jobs from {numbers.first_job}, so that no site takes "
        "them for one that it knows.",
        soft_wrap=True,
        markup=False,
    )
    out.print(
        "[bold red]Never start two coordinators with the same keys.[/] Make sure that the old one is gone, then: "
        f"salus server start {shown(folder)}",
        soft_wrap=True,
    )


def _jobs(number: int) -> str:
    return f"{number} job{'' if number == 1 else 's'}"
