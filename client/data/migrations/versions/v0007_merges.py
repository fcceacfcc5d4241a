"""Identifiers that name one patient, as the operator says or as a later rule for identifiers has it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the table, empty."""
    op.create_table(
        "merges",
        sa.Column("patient", sa.String, primary_key=True),
        sa.Column("kept", sa.String, nullable=False),
    )
