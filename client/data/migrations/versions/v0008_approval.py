"""Approval of data sets whose images were searched for burned-in text."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the digest of the images that wait; those of before wait for nothing, because no detector let them in."""
    op.add_column("datasets", sa.Column("awaiting", sa.String, nullable=False, server_default=""))
