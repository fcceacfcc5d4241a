"""Declarations of data sets, and their current problems."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add both; a data set registered earlier is not declared, and jobs on it are refused until it is."""
    op.add_column("datasets", sa.Column("declaration", sa.String, nullable=False, server_default=""))
    op.create_table(
        "troubles",
        sa.Column("dataset", sa.String, primary_key=True),
        *(sa.Column(name, sa.String, nullable=False) for name in ("since", "problem", "keys")),
    )
