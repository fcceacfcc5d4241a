"""`salus job pause | drain | cancel | abort | resume`: stop a job, for a while or for good, and let it continue.

pause     at once; the round in progress is abandoned           resume continues after the last complete round
drain     when the round in progress is complete                as above
cancel    as pause, and the job counts as ended                 as above
abort     at once and for good: models are deleted, and sites give back what they reserved and never sent
"""

from typing import Any

import typer

from salus.common.console import example, out, shown
from salus.common.errors import JobError
from salus.server.commands.arguments import Folder, JobId

GOING = ("waiting", "running")
SPENT = "What the sites sent stays spent in their privacy ledgers, and what they reserved for the rest stays reserved."


def _going(folder: Folder, job_id: JobId, what: str) -> tuple[Any, str]:
    """Return the admin client and the job's status; raises JobError unless the job waits or runs."""
    from salus.server.admin_client import AdminClient

    client = AdminClient(folder)
    status = client.get(f"/jobs/{job_id}")["status"]
    if status not in GOING:
        raise JobError(
            f"Expected a waiting or running job, but {shown(job_id)} is {status}.",
            remedy=f"There is nothing to {what}.",
        )
    return client, status


def pause(folder: Folder, job_id: JobId) -> None:
    """Pause a job at once: the round in progress is abandoned, and complete rounds stay."""
    client, _ = _going(folder, job_id, "pause")
    runs = client.post(f"/jobs/{job_id}/pause")["runs"]
    out.print(f"{shown(job_id)} {'will stop shortly' if runs else 'is paused'}.", soft_wrap=True)
    _say_how_to_continue(folder, job_id)


def drain(folder: Folder, job_id: JobId) -> None:
    """Pause a job when its round in progress is complete, for maintenance without a lost round."""
    client, _ = _going(folder, job_id, "drain")
    runs = client.post(f"/jobs/{job_id}/pause", after_round=True)["runs"]
    out.print(f"{shown(job_id)} {'will stop after the round in progress' if runs else 'is paused'}.", soft_wrap=True)
    _say_how_to_continue(folder, job_id)


def _say_how_to_continue(folder: Folder, job_id: JobId) -> None:
    out.print(SPENT, soft_wrap=True)
    out.print(f"Continue with: salus job resume {shown(folder)} {shown(job_id)}", soft_wrap=True)


def abort(folder: Folder, job_id: JobId) -> None:
    """End a job for good: models are deleted, and sites give back what they reserved and never sent."""
    from salus.server.admin_client import AdminClient

    client = AdminClient(folder)
    done = client.post(f"/jobs/{job_id}/abort")
    names = [site["name"] for site in client.get("/status")["sites"] if not site["online"]]
    out.print(
        f"{shown(job_id)} {'will stop shortly' if done['runs'] else 'is aborted'}. {shown(done['text'])}",
        soft_wrap=True,
    )
    if names:
        out.print(f"Offline now, and told when they come back: {shown(', '.join(names))}.", soft_wrap=True)


def cancel(folder: Folder, job_id: JobId) -> None:
    """Cancel a waiting or running job; privacy budget that it has spent stays spent."""
    client, status = _going(folder, job_id, "cancel")
    client.post(f"/jobs/{job_id}/cancel")
    out.print(f"{shown(job_id)} is cancelled." if status == "waiting" else f"{shown(job_id)} will stop shortly.")


def resume(folder: Folder, job_id: JobId) -> None:
    """Resume a failed, cancelled or paused job after its last finished round; no finished round is repeated."""
    from salus.server.admin_client import AdminClient

    client = AdminClient(folder)
    done = client.post(f"/jobs/{job_id}/resume")["rounds"]
    out.print(f"[bold]{shown(job_id)}[/] is queued again and will continue after round {shown(done)}.")


def register(app: typer.Typer) -> None:
    """Add this module's commands to `salus job`."""
    name = "paediatric-pneumonia-0001"
    for command in (pause, drain, cancel, abort, resume):
        app.command(epilog=example(f"salus job {command.__name__} ./coordinator {name}"))(command)
