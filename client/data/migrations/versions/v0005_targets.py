"""Annotations of images: masks, boxes, numbers and others beside the label."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table; images registered earlier have a label only, until their data set is registered again."""
    op.create_table(
        "targets",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("dataset", sa.String, sa.ForeignKey("datasets.name", ondelete="CASCADE"), nullable=False),
        sa.Column("image", sa.Integer, nullable=False),
        *(sa.Column(name, sa.String, nullable=False) for name in ("name", "kind", "amounts")),
        sa.Column("outside", sa.Float, nullable=False),
    )
    op.create_index("ix_targets_dataset", "targets", ["dataset"])
