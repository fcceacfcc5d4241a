"""What one patient may spend, as the operator sets it."""

from typing import Annotated

from pydantic import Field

from salus.common.strict import Strict
from salus.privacy.dp.plan import BUDGET_DAYS, BUDGET_DELTA, BUDGET_EPSILON


class Budget(Strict):
    """What one patient may spend, from ``policy.toml``.

    Args:
        epsilon: most that one patient may spend over all jobs of one period together.
        delta: the delta at which this epsilon is computed.
        period_days: days for which a job counts after its last release; an open job always counts in full.
    """

    epsilon: Annotated[float, Field(gt=0)] = BUDGET_EPSILON
    delta: Annotated[float, Field(gt=0, lt=0.1)] = BUDGET_DELTA
    period_days: Annotated[int, Field(ge=1)] = BUDGET_DAYS
