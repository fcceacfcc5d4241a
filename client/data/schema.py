"""The catalogue's current tables; `migrations` holds their history, and a test checks that both agree."""

import sqlalchemy as sa

METADATA = sa.MetaData()
DATASETS = sa.Table(
    "datasets",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("root", sa.String, nullable=False),
    sa.Column("options", sa.String, nullable=False),
    sa.Column("added_at", sa.String, nullable=False),
    sa.Column("declaration", sa.String, nullable=False, server_default=""),  # JSON; empty until it is confirmed
    sa.Column("awaiting", sa.String, nullable=False, server_default=""),  # approval, of the images with this digest
)
IMAGES = sa.Table(
    "images",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset", sa.ForeignKey("datasets.name", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("patient", sa.String, nullable=False),
    sa.Column("study", sa.String, nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("label", sa.String, nullable=False),
    sa.Column("split", sa.String, nullable=False),
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("info", sa.String, nullable=False),
    sa.Column("pixel_sha256", sa.String, nullable=False),
)
QUARANTINE = sa.Table(
    "quarantine",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset", sa.ForeignKey("datasets.name", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("detail", sa.String, nullable=False),
)
TARGETS = sa.Table(  # annotations; an image that has none has no row
    "targets",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset", sa.ForeignKey("datasets.name", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("image", sa.Integer, nullable=False),  # images.id; both are written and deleted together
    sa.Column("name", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("amounts", sa.String, nullable=False),  # JSON
    sa.Column("outside", sa.Float, nullable=False),
)
SPLITS = sa.Table(
    "splits",
    METADATA,
    sa.Column("patient", sa.String, primary_key=True),  # of any data set; kept when that is removed
    sa.Column("split", sa.String, nullable=False),
)
MERGES = sa.Table(  # of pseudonyms; never followed more than once, see `merging`
    "merges",
    METADATA,
    sa.Column("patient", sa.String, primary_key=True),
    sa.Column("kept", sa.String, nullable=False),
)
WITHDRAWALS = sa.Table(  # one row for each patient, or for the whole site; see `withdrawals`
    "withdrawals",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("who", sa.String, nullable=False),  # patient or site
    sa.Column("at", sa.String, nullable=False),
    sa.Column("salt", sa.String, nullable=False),
    sa.Column("datasets", sa.String, nullable=False),  # JSON: those that held the patient
    sa.Column("head", sa.String, nullable=False),  # of the ledger before the withdrawal
    sa.Column("finished", sa.String, nullable=False, server_default=""),  # hash of the signed paper
)
WITHDRAWN = sa.Table(  # pseudonyms; rows are only ever added
    "withdrawn",
    METADATA,
    sa.Column("patient", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False, index=True),
    sa.Column("named", sa.Boolean, nullable=False),  # part of what the paper was signed for, not added by a later merge
)
USED_JOBS = sa.Table(  # jobs that read a data set; see `uses`
    "used_jobs",
    METADATA,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("scope", sa.String, nullable=False, index=True),
    sa.Column("noised", sa.Boolean, nullable=False),
    sa.Column("protected", sa.Boolean, nullable=False),
    sa.Column("at", sa.String, nullable=False),
)
USES = sa.Table(
    "uses",
    METADATA,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("patient", sa.String, primary_key=True, index=True),
    sa.Column("kind", sa.Integer, nullable=False),  # `DataKind`
    sa.Column("round", sa.Integer, nullable=False),  # the first one
)
TROUBLES = sa.Table(
    "troubles",
    METADATA,
    sa.Column("dataset", sa.String, primary_key=True),  # no foreign key: the data set may have been removed
    sa.Column("since", sa.String, nullable=False),
    sa.Column("problem", sa.String, nullable=False),
    sa.Column("keys", sa.String, nullable=False),
)


def _staged(table: sa.Table, metadata: sa.MetaData) -> sa.Table:
    """Return a temporary table with the same columns, which stages a scan."""
    columns = [sa.Column(column.name, column.type) for column in table.columns if column.name != "id"]
    return sa.Table(f"staged_{table.name}", metadata, *columns, prefixes=["TEMPORARY"])


STAGED = sa.MetaData()
STAGED_IMAGES, STAGED_QUARANTINE = _staged(IMAGES, STAGED), _staged(QUARANTINE, STAGED)
STAGED_TARGETS = _staged(TARGETS, STAGED)  # `image` counts the staged images from 1
