"""The tables of a coordinator: jobs, attempts, rounds, cohorts and declarations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables; a SQLite file of versions before this one has them already."""
    op.create_table(
        "jobs",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("job_id", sa.String, unique=True, nullable=False),
        sa.Column("signed", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False, server_default=""),
        sa.Column("submitted_at", sa.String, nullable=False),
        sa.Column("roster", sa.String, nullable=False, server_default=""),
    )
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.job_id"), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
    )
    op.create_table(
        "rounds",
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.job_id"), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("record", sa.String, nullable=False),
    )
    op.create_table(
        "cohorts",
        sa.Column("scope", sa.String, primary_key=True),
        sa.Column("sites", sa.String, nullable=False),
    )
    op.create_table(
        "declarations",
        sa.Column("site_key", sa.String, primary_key=True),
        sa.Column("declared", sa.String, nullable=False),
        sa.Column("heard_at", sa.String, nullable=False),
    )
