"""A data set in counts, as the database counts it."""

from dataclasses import dataclass, field

import sqlalchemy as sa

from salus.client.data.schema import IMAGES, QUARANTINE
from salus.client.data.sources.accompanying import NOT_REFUSED, SET_ASIDE, UNMATCHED
from salus.client.data.target_table import TargetSummary, summarised


@dataclass(frozen=True)
class DatasetSummary:
    """What a data set holds, in counts.

    Args:
        quarantined: files that could not be used, by reason.
        set_aside: files that accompany data on purpose, such as label files.
        unmatched: rows of the label file that no image has.
    """

    name: str
    kind: str
    root: str
    patients: int
    studies: int
    images: int
    labels: dict[str, int]
    quarantined: dict[str, int]
    duplicates: int
    set_aside: int = 0
    unmatched: int = 0
    targets: dict[str, TargetSummary] = field(default_factory=dict)


def summary_of(connection: sa.Connection, name: str, kind: str, root: str) -> DatasetSummary:
    """Return the counts of a registered data set.

    Args:
        kind, root: of the data set.
    """
    mine = IMAGES.c.dataset == name
    same = sa.func.coalesce(sa.func.nullif(IMAGES.c.pixel_sha256, ""), IMAGES.c.sha256)
    distinct = [sa.func.count(sa.distinct(column)) for column in (IMAGES.c.patient, IMAGES.c.study, same)]
    counts = connection.execute(sa.select(*distinct, sa.func.count()).where(mine)).one()
    patients, studies, different, images = (int(count) for count in counts)
    labels = connection.execute(sa.select(IMAGES.c.label, sa.func.count()).where(mine).group_by(IMAGES.c.label))
    reasons = sa.select(QUARANTINE.c.reason, sa.func.count()).where(QUARANTINE.c.dataset == name)
    bad: dict[str, int] = {reason: count for reason, count in connection.execute(reasons.group_by(QUARANTINE.c.reason))}
    return DatasetSummary(
        name,
        kind,
        root,
        patients,
        studies,
        images,
        labels={label: count for label, count in labels},
        quarantined={reason: count for reason, count in bad.items() if reason not in NOT_REFUSED},
        duplicates=images - different,
        set_aside=bad.get(SET_ASIDE, 0),
        unmatched=bad.get(UNMATCHED, 0),
        targets=summarised(connection, name),
    )
