"""What a round of a job sends over the line, from the job's public settings, and how long that takes."""

from salus.common.cost import cost_of
from salus.common.doctor.link import Line
from salus.common.job import Job

MODEL_BYTES = 4  # of a parameter, towards the site
ENTRY_BYTES = {"none": 4, "masking": 4, "encryption": 48}  # of an entry of the vector, towards the coordinator; at most
EXCHANGES = {"none": 1, "masking": 5, "encryption": 2}
REQUESTS = {1: 14, 2: 2}  # one after the other in one exchange, by version of the protocol; 2: a poll and a reply


def bytes_of(job: Job) -> tuple[int, int]:
    """Return the bytes that a round sends to a site and from it, without what does not grow with the model.

    Raises:
        JobError: as in `cost_of`.
    """
    cost = cost_of(job)
    entries = cost.parameters or cost.cells
    return MODEL_BYTES * cost.parameters, ENTRY_BYTES.get(job.aggregation.protection, 48) * entries


def seconds_of(job: Job, line: Line) -> float | None:
    """Return the seconds that a round spends on the line of a site; None if the line was not measured."""
    if line.up_bytes_s is None or line.down_bytes_s is None:
        return None
    down, up = bytes_of(job)
    waits = EXCHANGES.get(job.aggregation.protection, 5) * REQUESTS[line.protocol] * line.round_trip_s
    return down / line.down_bytes_s + up / line.up_bytes_s + waits
