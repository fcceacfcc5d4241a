"""The coordinator's local admin API, on a socket file that only its own user can open."""

from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from salus.common.errors import JobError, SalusError, describe
from salus.server.checkpoints import JobRow
from salus.server.farewell import ABORTED
from salus.server.scheduling import Place


class Coordinator(Protocol):
    """What the admin API needs from the daemon."""

    def status(self) -> dict[str, Any]:
        """Return the roster, the online sites, the running jobs and the length of the queue."""

    def take_roster(self) -> dict[str, Any]:
        """Use the kit that is installed now, and return its serial, the number of sites and what changed."""

    def submit(self, text: str, *, anyway: bool = False) -> str:
        """Accept a job file's text or a signed job and return its id; refuse it if too few sites can run it, unless `anyway`."""

    def check(self, text: str) -> dict[str, Any]:
        """Return which sites could run a job, and why others could not; nothing is queued."""

    def canary(self, text: str) -> dict[str, Any]:
        """Try a job out with one round of zeros and return what would stop it at each site; nothing is kept."""

    def cancel(self, job_id: str) -> None:
        """Cancel a job."""

    def pause(self, job_id: str, *, after_round: bool) -> bool:
        """Pause a job, now or after the round in progress, and return whether it still runs."""

    def abort(self, job_id: str) -> bool:
        """End a job for good and return whether it still runs."""

    def resume(self, job_id: str) -> int:
        """Queue a failed or cancelled job again and return how many rounds it has finished."""

    def jobs(self) -> list[tuple[JobRow, Place | None]]:
        """Return all jobs, with the place of those that wait in the queue."""

    def events(self, job_id: str, after: int) -> list[dict[str, Any]]:
        """Return a job's events with their numbers, starting after `after`."""

    def result(self, job_id: str) -> dict[str, Any]:
        """Return a job's state, rounds and, when it has ended, model and report."""


MAX_JOB_BYTES = 1_000_000


async def _text(request: Request) -> str:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_JOB_BYTES:
            raise JobError(f"Expected a job of at most {MAX_JOB_BYTES} bytes.", remedy="Check the path.")
    return body.decode("utf-8", errors="replace")


def make_admin_app(coordinator: Coordinator) -> FastAPI:
    """Return the app."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(SalusError)
    async def explain(request: Request, problem: SalusError) -> JSONResponse:
        return JSONResponse({"error": describe(problem), "exit_code": problem.exit_code}, status_code=400)

    @app.get("/status")
    def status() -> dict[str, Any]:
        return coordinator.status()

    @app.post("/roster")
    def take_roster() -> dict[str, Any]:
        return coordinator.take_roster()

    @app.get("/jobs")
    def jobs() -> list[dict[str, Any]]:
        return [
            {
                "job": row.job_id,
                "status": row.status,
                "place": place.place if place else None,
                "reason": place.reason if place else row.reason,
                "submitted_at": row.submitted_at,
            }
            for row, place in coordinator.jobs()
        ]

    @app.post("/jobs")
    async def submit(request: Request, anyway: bool = False) -> dict[str, str]:
        text = await _text(request)
        return {"job": await run_in_threadpool(coordinator.submit, text, anyway=anyway)}

    @app.post("/check")
    async def check(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(coordinator.check, await _text(request))

    @app.post("/canary")
    async def canary(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(coordinator.canary, await _text(request))

    _add_stopping(app, coordinator)

    @app.get("/jobs/{job_id}/events")
    def events(job_id: str, after: int = 0) -> list[dict[str, Any]]:
        return coordinator.events(job_id, after)

    @app.get("/jobs/{job_id}")
    def result(job_id: str) -> dict[str, Any]:
        return coordinator.result(job_id)

    return app


def _add_stopping(app: FastAPI, coordinator: Coordinator) -> None:
    """Add what stops a job and lets it continue."""

    @app.post("/jobs/{job_id}/cancel")
    def cancel(job_id: str) -> dict[str, str]:
        coordinator.cancel(job_id)
        return {"job": job_id}

    @app.post("/jobs/{job_id}/pause")
    def pause(job_id: str, after_round: bool = False) -> dict[str, bool]:
        return {"runs": coordinator.pause(job_id, after_round=after_round)}

    @app.post("/jobs/{job_id}/abort")
    def abort(job_id: str) -> dict[str, bool | str]:
        return {"runs": coordinator.abort(job_id), "text": ABORTED}

    @app.post("/jobs/{job_id}/resume")
    def resume(job_id: str) -> dict[str, int]:
        return {"rounds": coordinator.resume(job_id)}
