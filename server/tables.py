"""The coordinator's tables as statements use them; how they come about is in `migrations`."""

import sqlalchemy as sa

METADATA = sa.MetaData()
JOBS = sa.Table(
    "jobs",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("job_id", sa.String, unique=True, nullable=False),
    sa.Column("signed", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False, server_default=""),
    sa.Column("submitted_at", sa.String, nullable=False),
    sa.Column("roster", sa.String, nullable=False, server_default=""),
)
ATTEMPTS = sa.Table(
    "attempts",
    METADATA,
    sa.Column("job_id", sa.ForeignKey("jobs.job_id"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
)
ROUNDS = sa.Table(
    "rounds",
    METADATA,
    sa.Column("job_id", sa.ForeignKey("jobs.job_id"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("record", sa.String, nullable=False),
)
COHORTS = sa.Table(
    "cohorts",
    METADATA,
    sa.Column("scope", sa.String, primary_key=True),
    sa.Column("sites", sa.String, nullable=False),
)
DECLARATIONS = sa.Table(
    "declarations",
    METADATA,
    sa.Column("site_key", sa.String, primary_key=True),  # the site's signing key: site numbers may change, keys do not
    sa.Column("declared", sa.String, nullable=False),
    sa.Column("heard_at", sa.String, nullable=False),
)
