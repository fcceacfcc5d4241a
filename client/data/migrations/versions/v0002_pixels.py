"""Images by the hash of their pixels, so that copies are found across patients whatever their headers say."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the hash, empty where it is not known."""
    op.add_column("images", sa.Column("pixel_sha256", sa.String, nullable=False, server_default=""))
