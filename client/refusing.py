"""A site's refusal: everything for its operator, and only what reveals no patient for the coordinator."""

from salus.common.errors import BudgetError, DataError, NotOpened, SalusError, StorageError, describe, no_space, where
from salus.common.events import EventSink
from salus.common.packets import Reply, Request, refusal

BUDGET_REFUSED = "This site's privacy budget does not allow the job. Its operator sees the numbers in the site's log."
DATA_REFUSED = "This site's data cannot be used for this job. Its operator sees the reason in the site's log."
SPACE_REFUSED = "This site's disk is full or read-only. Its operator sees more in the site's log."


def refused(site: int, request: Request, problem: Exception, events: EventSink) -> Reply:
    """Note why a request failed, for the operator, and return the reply to the coordinator."""
    detail = {"detail": problem.detail} if isinstance(problem, NotOpened) else {}  # names sites: not sent
    events.emit(
        "refused",
        job=request.job_id,
        round=request.round,
        error=type(problem).__name__,
        text=describe(problem),
        **detail,
    )
    if not isinstance(problem, SalusError):
        events.emit("unexpected", error=type(problem).__name__, where=where(problem))
    # Only the operator learns what is wrong with the data; the coordinator learns only that something is.
    text = describe(problem)
    if isinstance(problem, DataError | StorageError | OSError):  # the name of a file may be a person's
        text = SPACE_REFUSED if no_space(problem) else DATA_REFUSED
    elif isinstance(problem, BudgetError):
        text = BUDGET_REFUSED
    return refusal(site, problem, text)
