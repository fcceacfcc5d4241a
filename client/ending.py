"""What a site does when the coordinator has aborted a job: it forgets the job, and gives back the budget that it did not use.

What was sent stays spent, and what the site consented to stays remembered. The site also keeps its log and the record of who
was used.
"""

from salus.client.ledger.store import Ledger
from salus.client.state import JobStates
from salus.client.using import ledger_name
from salus.common.errors import LedgerError
from salus.common.events import EventSink
from salus.common.job import Job
from salus.common.start.store import SiteStarts


def forget(
    job_id: str, job: Job, document: bytes, ledger: Ledger, states: JobStates, starts: SiteStarts, events: EventSink
) -> None:
    """Close a job's account, so that nothing more can be spent for it, and remove what is kept for it between rounds."""
    name = ledger_name(job_id, document)
    try:
        given_back = sum(release.count for release in ledger.close(name))
    except LedgerError:  # a job without noise, or one that this site never accepted
        given_back = 0
    states.forget(name.replace("/", "-"))
    starts.forget(job)
    events.emit("job-aborted", job=job_id, given_back=given_back)
