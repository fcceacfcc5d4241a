"""Another database in the settings of a coordinator, when a backup is restored into it."""

import json
import re

from salus.common.errors import ConfigError
from salus.common.strict import parse_toml, validate
from salus.server.config import ServerConfig

SQLITE = "sqlite"  # instead of a URL: the file in the coordinator's folder
WHAT = "server file"
KEYS = re.compile(r"^\s*(database|database_password_file)\s*=")
TABLE = re.compile(r"^\s*\[")


def with_database(text: str, database: str, password_file: str) -> str:
    """Return the text of `server.toml` with another database; all other lines stay.

    Args:
        database: URL of a PostgreSQL database, without the password, or `SQLITE`.
        password_file: file with its password; empty for the environment variable.

    Raises:
        ConfigError: the URL is not valid, or the settings cannot be changed line by line.
    """
    url = database if database != SQLITE else ""
    if password_file and not url:
        raise ConfigError(
            "A password file is for a PostgreSQL database.",
            remedy="Name the database with --database, or leave out --database-password-file.",
        )
    values = {"database": url, "database_password_file": password_file}
    expected = parse_toml(ServerConfig, text, error=ConfigError, what=WHAT).model_dump(mode="json") | values
    validate(
        ServerConfig, expected, error=ConfigError, what=f"new {WHAT}", remedy="Correct --database or its password file."
    )
    lines = text.removesuffix("\n").split("\n")
    new = [f"{key} = {_quoted(value)}" for key, value in values.items() if value]
    top = next((place for place, line in enumerate(lines) if TABLE.match(line)), len(lines))
    kept = [line for line in lines[:top] if not KEYS.match(line)]
    changed = "\n".join([*kept, *new, *lines[top:]]) + "\n"
    try:
        same = parse_toml(ServerConfig, changed, error=ConfigError, what=WHAT).model_dump(mode="json") == expected
    except ConfigError:
        same = False
    if not same:
        raise ConfigError(
            "The database in server.toml of the backup is not on a line of its own.",
            remedy="Restore without --database; then nothing is moved.",
        )
    return changed


def _quoted(text: str) -> str:
    """Return a basic string of TOML, which has no pairs of surrogates."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
