"""Which pseudonym key a ledger was started with.

The ledger knows patients by their pseudonyms. With another key every patient would be new and have a full budget, so the
ledger's file remembers the key's fingerprint and refuses any other.
"""

from pathlib import Path

import sqlalchemy as sa

from salus.client.data.pseudonyms import key_fingerprint
from salus.client.ledger.entries import FORMAT
from salus.common.errors import LedgerError
from salus.common.sqlite import open_database

METADATA = sa.MetaData()
KEY = sa.Table("pseudonym_key", METADATA, sa.Column("fingerprint", sa.String, primary_key=True))
FIXED = (
    "CREATE TRIGGER IF NOT EXISTS pseudonym_key_{verb} BEFORE {verb} ON pseudonym_key "
    "BEGIN SELECT RAISE(ABORT, 'the pseudonym key of a ledger never changes'); END"
)


def bind_key(ledger: Path, secret: bytes) -> None:
    """Remember the fingerprint of the site's pseudonym key in its ledger's file, or compare it with the remembered one.

    Args:
        ledger: path of the SQLite file, created if absent.
        secret: the pseudonym key, 32 bytes.

    Raises:
        LedgerError: the ledger was started with another key.
    """
    engine = open_database(ledger, METADATA, FORMAT)
    mine = key_fingerprint(secret)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        for verb in ("UPDATE", "DELETE"):
            connection.execute(sa.text(FIXED.format(verb=verb)))
        known = connection.scalar(sa.select(KEY.c.fingerprint))
        if known is None:
            connection.execute(KEY.insert().values(fingerprint=mine))
        connection.commit()
    if known not in (None, mine):
        raise LedgerError(
            f"The ledger was started with the pseudonym key {known}, but keys/pseudonym.key is {mine}: every patient would "
            "get a new budget.",
            remedy="Restore keys/pseudonym.key from the backup of this site.",
        )
