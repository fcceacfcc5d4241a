"""What `salus dataset import` does: source, child, store, catalogue and report together."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from rich.progress import Progress as Bar

from salus.client.config import open_catalogue
from salus.client.data.catalogue import Catalogue
from salus.client.data.deidentify import parse_mask
from salus.client.data.importing import ImportReport, Incoming, Progress, from_folder, from_zip, import_images
from salus.client.data.isolation import Isolated
from salus.client.data.pacs import DicomWeb, PacsOptions, parse_query
from salus.client.data.sources import open_source
from salus.client.data.sources.base import SourceOptions
from salus.client.data.sources.labels import read_labels
from salus.common.console import err
from salus.common.errors import ConfigError, DataError
from salus.common.strict import validate

REPORT = "report.json"


def run_import(
    folder: Path,
    name: str,
    labels: Path,
    source: Path | None,
    *,
    pacs: str,
    query: str,
    user: str,
    authority: str,
    label_column: str,
    volumes: bool,
    masks: list[str],
) -> dict[str, object]:
    """Import into ``<folder>/images/<name>``, register the data set anew, and return the report.

    Raises:
        ConfigError, DataError, LinkError: neither or both sources, no labels, or a PACS that cannot be reached.
    """
    if (source is None) == (not pacs):
        raise ConfigError("Expected a folder or zip, or --pacs, and not both.", remedy="Give one of them.")
    catalogue = open_catalogue(folder)
    secret = (folder / "keys" / "pseudonym.key").read_bytes()
    store = folder / "images" / _safe(name)
    known = read_labels(labels.parent, SourceOptions(labels=labels.name, label_column=label_column))
    with Isolated(secret, tuple(parse_mask(text) for text in masks)) as child, Bar(console=err, transient=True) as bar:
        task = bar.add_task("Importing ...", total=None)
        if source is not None:
            files = _counted(from_zip(source) if source.suffix.lower() == ".zip" else _folder(source), bar, task)
            report = import_images(files, known, secret, store, child)
        else:
            options = {"url": pacs, "query": parse_query(query), "authority": authority}
            with DicomWeb(
                validate(PacsOptions, options, error=ConfigError, what="PACS"),
                user=user,
                password=os.environ.get("SALUS_PACS_PASSWORD", ""),
            ) as server:
                progress = Progress(store, secret)
                files = server.incoming(progress, lambda done, of: bar.update(task, completed=done, total=of))
                report = import_images(files, known, secret, store, child)
    return _register(catalogue, name, store, report, volumes=volumes)


def _register(
    catalogue: Catalogue, name: str, store: Path, report: ImportReport, *, volumes: bool
) -> dict[str, object]:
    plain = report.to_json()
    (store / REPORT).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    if not any(store.rglob("*.dcm")):
        raise DataError(
            f"No image could be used: {json.dumps(plain['refused'])}.", remedy="Check the source and the label file."
        )
    options = SourceOptions(volumes=volumes)  # images of earlier imports are in the store too
    catalogue.add_records(
        name, "imported", store, options, open_source("imported", store, options).scan(), replace=True
    )
    return plain


def _folder(root: Path) -> Iterator[Incoming]:
    if not root.is_dir():
        raise DataError(f"Expected data at {root.name!r}, but there is nothing.", remedy="Check the path.")
    return from_folder(root)


def _counted(files: Iterator[Incoming], bar: Bar, task: object) -> Iterator[Incoming]:
    for item in files:
        bar.advance(task)  # type: ignore[arg-type]
        yield item


def _safe(name: str) -> str:
    """Return a data set's name if it can be a folder's; raises ConfigError otherwise."""
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"Expected letters, digits and dashes in the name, got {name!r}.", remedy="Rename it.")
    return name
