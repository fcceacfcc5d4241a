"""A site's answer when it is sent the weights with which a job starts."""

from salus.client.checking import too_large
from salus.client.performance import Performance
from salus.client.policy import Policy
from salus.common.cost import check_cost
from salus.common.errors import Refused
from salus.common.job import Job
from salus.common.packets import HERE
from salus.common.start.store import SiteStarts


def received(job: Job, blob: bytes, starts: SiteStarts, policy: Policy, performance: Performance) -> bytes:
    """Keep the weights with which a job starts, and answer `HERE`; without any, say whether they are here already.

    Args:
        blob: the weights, or nothing.
        performance: of this machine; the memory that a job may need bounds what is decoded.

    Raises:
        Refused: a job without a start, or one that the policy does not allow or that is too large.
        StartError: other weights than those whose hash the job names.
    """
    if job.start is None:
        raise Refused("The job has no start.", remedy="Send no weights for it.")
    policy.check(job)
    check_cost(job, performance.job_limit_bytes(), too_large)
    if blob:
        starts.put(job, blob)
    return HERE if blob or starts.has(job) else b""
