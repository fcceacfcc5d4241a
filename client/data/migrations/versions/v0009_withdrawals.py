"""Patients who have withdrawn, and which job used which patient."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Create the tables, empty: uses by jobs of before were not recorded, apart from those in the ledger."""
    op.create_table(
        "withdrawals",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("salt", sa.String, nullable=False),
        sa.Column("datasets", sa.String, nullable=False),
        sa.Column("head", sa.String, nullable=False),
        sa.Column("finished", sa.String, nullable=False, server_default=""),
    )
    op.create_table(
        "withdrawn",
        sa.Column("patient", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False, index=True),
        sa.Column("named", sa.Boolean, nullable=False),
    )
    op.create_table(
        "used_jobs",
        sa.Column("job", sa.String, primary_key=True),
        sa.Column("scope", sa.String, nullable=False, index=True),
        sa.Column("noised", sa.Boolean, nullable=False),
        sa.Column("protected", sa.Boolean, nullable=False),
        sa.Column("at", sa.String, nullable=False),
    )
    op.create_table(
        "uses",
        sa.Column("job", sa.String, primary_key=True),
        sa.Column("patient", sa.String, primary_key=True, index=True),
        sa.Column("kind", sa.Integer, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
    )
