"""Paths are sealed: a file's or folder's name may be a person's."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
SEALED = {"datasets": ("root", "options"), "images": ("key",), "quarantine": ("key", "detail")}


def upgrade() -> None:
    """Seal existing paths with the key that was passed to `migrate`."""
    connection, seal = op.get_bind(), op.get_context().opts["seal"]
    for table, columns in SEALED.items():
        rows = sa.table(table, sa.column("rowid"), *(sa.column(column) for column in columns))
        found = connection.execute(sa.select(rows.c.rowid, *(rows.c[column] for column in columns))).all()
        for number, *values in found:
            sealed = {column: seal(value) for column, value in zip(columns, values, strict=True)}
            connection.execute(sa.update(rows).where(rows.c.rowid == number).values(sealed))
