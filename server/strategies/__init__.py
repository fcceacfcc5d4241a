"""How the mean update becomes the next global model. To add a strategy: one file here, one test and one line below.

Strategies see only the weighted mean, never a single site's update, so each works under every protection.
"""

from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.registry import Registry
from salus.server.strategies.base import Strategy

STRATEGIES = Registry(
    "strategy",
    "salus.strategies",
    {
        "fedavg": "salus.server.strategies.fedavg:FedAvg",
        "fedavgm": "salus.server.strategies.fedavgm:FedAvgM",
    },
)


def strategy_of(job: Job) -> Strategy:
    """Return the strategy that a job names, or the default for its kind of rounds; raises JobError for an unknown name."""
    strategy: Strategy = STRATEGIES.get(job.strategy, error=JobError)(job)
    return strategy
