"""Which roster each site has, as far as the coordinator has heard: a file that people can copy to the consortium's machine."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, Field

from salus.common.errors import ConfigError
from salus.common.kit import read_json, write_json
from salus.common.roster import MAX_SITES, SiteId
from salus.common.strict import Strict, validate
from salus.common.trust import TRUST

NAME = "fetched.json"
MAX_BYTES = 8 * 2**20


class Fetched(Strict):
    """What one site has answered.

    Args:
        serial: of its roster; 0 if it has never said so.
        at: when it answered last.
        problem: why it does not have the coordinator's roster; empty if it has it.
    """

    site: SiteId
    serial: Annotated[int, Field(ge=0)]
    at: AwareDatetime
    problem: Annotated[str, Field(max_length=500)] = ""


class FetchedFile(Strict):
    """``trust/fetched.json`` in the coordinator's folder."""

    newest_format: ClassVar[int] = 1

    format: Literal[1] = 1
    sites: Annotated[tuple[Fetched, ...], Field(max_length=MAX_SITES)] = ()


def read_fetched(path: Path) -> dict[int, Fetched]:
    """Return what sites have answered, by site id.

    Args:
        path: the file, or the coordinator's folder.

    Raises:
        ConfigError: no such file, or another kind of file.
    """
    if path.is_dir():
        path = path / TRUST / NAME
    read = validate(
        FetchedFile, read_json(path, "list of fetched rosters", MAX_BYTES),
        error=ConfigError, what="list of fetched rosters", received=True,
    )  # fmt: skip
    return {one.site: one for one in read.sites}


def write_fetched(folder: Path, sites: dict[int, Fetched]) -> None:
    """Write the file into the coordinator's folder."""
    ordered = tuple(sites[number] for number in sorted(sites))
    write_json(folder / TRUST / NAME, FetchedFile(sites=ordered))
