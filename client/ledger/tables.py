"""The tables of a ledger: rows are only ever added, which triggers enforce."""

import sqlalchemy as sa

METADATA = sa.MetaData()
ENTRIES = sa.Table(
    "entries",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("job", sa.String, nullable=False, index=True),
    sa.Column("body", sa.String, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)
PATIENTS = sa.Table(
    "patients",
    METADATA,
    sa.Column("patient", sa.String, primary_key=True),
    sa.Column("job", sa.String, primary_key=True, index=True),
)
MERGES = sa.Table(  # pairs of patients who are one person; either may be the one that is kept
    "merges",
    METADATA,
    sa.Column("patient", sa.String, primary_key=True),
    sa.Column("other", sa.String, primary_key=True),
)
APPEND_ONLY = (
    "CREATE TRIGGER IF NOT EXISTS {table}_{verb} BEFORE {verb} ON {table} "
    "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
)
