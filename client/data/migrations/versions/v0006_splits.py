"""Each patient's split, decided once and kept for every job."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table; the next job decides for the patients registered so far, as the jobs before did."""
    op.create_table(
        "splits",
        sa.Column("patient", sa.String, primary_key=True),
        sa.Column("split", sa.String, nullable=False),
    )
