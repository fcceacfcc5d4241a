"""Data sets, images and quarantined files."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "datasets",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("root", sa.String, nullable=False),
        sa.Column("options", sa.String, nullable=False),
        sa.Column("added_at", sa.String, nullable=False),
    )
    op.create_table(
        "images",
        sa.Column("id", sa.Integer, primary_key=True),
        _dataset(),
        *(
            sa.Column(name, sa.String, nullable=False)
            for name in ("patient", "study", "key", "label", "split", "sha256", "info")
        ),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", sa.Integer, primary_key=True),
        _dataset(),
        *(sa.Column(name, sa.String, nullable=False) for name in ("key", "reason", "detail")),
    )
    for table in ("images", "quarantine"):
        op.create_index(f"ix_{table}_dataset", table, ["dataset"])


def _dataset() -> sa.Column[str]:
    return sa.Column("dataset", sa.String, sa.ForeignKey("datasets.name", ondelete="CASCADE"), nullable=False)
