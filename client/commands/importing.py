"""Implements `salus dataset import` and `receive`: brings source, child, store, catalogue and report together."""

import contextlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.progress import Progress as Bar

from salus.client.commands.approving import write_pages
from salus.client.config import open_catalogue
from salus.client.data.catalogue import Catalogue, check_name
from salus.client.data.dicom import text
from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.deidentify import METHOD, METHOD_CODES, parse_mask
from salus.client.data.dicom.kinds import checked_kinds
from salus.client.data.incoming.dimse import DicomNetwork, pushed
from salus.client.data.incoming.files import Incoming, from_folder, from_zip
from salus.client.data.incoming.importing import ImportReport, import_images
from salus.client.data.incoming.pacs import DicomWeb, PacsOptions
from salus.client.data.incoming.pipeline import started
from salus.client.data.incoming.progress import Progress
from salus.client.data.incoming.query import parse_query
from salus.client.data.incoming.receiver import DimseOptions
from salus.client.data.patient_map import PatientMap
from salus.client.data.remedies import remedy_of
from salus.client.data.sandbox import LAYERS
from salus.client.data.sources import open_source
from salus.client.data.sources.label_match import Labels
from salus.client.data.sources.labels import read_labels
from salus.client.data.sources.local import LocalFiles
from salus.client.data.sources.settings import LabelSettings, SourceOptions
from salus.client.outgoing.sending import post, store
from salus.common.console import err
from salus.common.errors import ConfigError, DataError
from salus.common.lock import FolderLock
from salus.common.pages import Section, write_page
from salus.common.strict import validate

REPORT = "report.json"
PLACE = re.compile(r"^([A-Z0-9_-]{1,16})@([^@:\s]+):(\d{1,5})$")
Tell = Callable[[int, int], None]
Files = Callable[[Progress, Tell], Iterator[Incoming]]


@dataclass(frozen=True)
class Target:
    """Where an import goes, and how its files are labelled and read.

    Args:
        labels: the label file; None if the images have segmentations only.
        declare: accept the proposed declaration unchanged; False leaves it to the operator to confirm.
        structures: labels of the segments that segmentations keep.
        zero_pad_ids: see `SourceOptions`.
        channels, include, frames, suv: see `SourceOptions`.
    """

    folder: Path
    name: str
    labels: Path | None
    label_column: str = "label"
    volumes: bool = False
    masks: tuple[str, ...] = ()
    declare: bool = True
    structures: tuple[str, ...] = ()
    channels: str = ""
    include: tuple[str, ...] = ()
    frames: str = ""
    zero_pad_ids: int = 0
    suv: bool = False


@dataclass(frozen=True)
class Tls:
    """Paths of PEM files for a PACS, as the operator gives them; empty if not given."""

    authority: str = ""
    certificate: str = ""
    key: str = ""
    trusted_network: bool = False


def run_import(target: Target, files: Files) -> dict[str, object]:
    """Import into ``<folder>/images/<name>``, register the data set again, and return the report.

    Raises:
        ConfigError, DataError, LinkError: no labels, nothing usable, or a source that cannot be reached.
    """
    catalogue = open_catalogue(target.folder)
    catalogue.withdrawals.require_site()
    secret = (target.folder / "keys" / "pseudonym.key").read_bytes()
    store = target.folder / "images" / check_name(target.name)
    if target.labels is None and not target.structures:
        raise ConfigError(
            "Expected labels, or the names of the structures that are segmented.",
            remedy="Give --labels or --structures.",
        )
    known = Labels({})
    if target.labels is not None:
        options = LabelSettings(
            labels=target.labels.name, label_column=target.label_column, zero_pad_ids=target.zero_pad_ids
        )
        known = read_labels(LocalFiles(target.labels.parent, options), options)
    include = tuple(checked_kinds(target.include))
    masks = tuple(parse_mask(text) for text in target.masks)
    detector = text.installed()
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    layers = catalogue.decoding.layers if catalogue.decoding is not None else LAYERS
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(store))
        children = stack.enter_context(
            started(
                lambda: Isolated(
                    secret, masks, layers=layers, structures=target.structures, include=include, text=detector
                )
            )
        )
        bar = stack.enter_context(Bar(console=err, transient=True))
        task = bar.add_task("Importing ...", total=None)
        progress = Progress(store, secret)
        found = files(progress, lambda done, of: bar.update(task, completed=done, total=of or None))
        patients, labelled = PatientMap(target.folder / "keys"), not target.structures
        withdrawn = catalogue.withdrawals.gate().gone
        report = import_images(
            found, known, secret, store, children, patients, progress, labelled=labelled, withdrawn=withdrawn
        )
    return _register(catalogue, target, store, report)


@contextlib.contextmanager
def held(store: Path) -> Iterator[None]:
    """Hold a store's lock: two imports at once would lose each other's labels."""
    lock = FolderLock(store)
    try:
        yield
    finally:
        lock.close()


def local_files(source: Path) -> Files:
    """Return the files of a folder or a zip; raises DataError if it does not exist."""
    if source.suffix.lower() != ".zip" and not source.is_dir():
        raise DataError(f"Expected data at {source.name!r}, found nothing.", remedy="Check the path.")
    read = from_zip if source.suffix.lower() == ".zip" else from_folder

    def counted(progress: Progress, tell: Tell) -> Iterator[Incoming]:
        found = read(source, progress.left_out)
        for number, item in enumerate(found, start=1):
            tell(number, 0)
            yield item

    return counted


def pacs_files(address: str, query: str, user: str, listen: str, tls: Tls) -> Files:
    """Return the files of a PACS: DICOMweb for ``https://``, C-FIND and C-MOVE for ``dicom://TITLE@host:port``.

    Raises:
        ConfigError: an address or TLS files that cannot be used.
    """
    if address.startswith("dicom://"):
        called, host, port = place_of(address.removeprefix("dicom://"), "--pacs")
        options = {"called": called, "host": host, "port": port, "query": parse_query(query)}
        network = DicomNetwork(dimse_options(options, listen, tls))
        return network.incoming
    web = validate(
        PacsOptions,
        {"url": address, "query": parse_query(query), "authority": tls.authority},
        error=ConfigError,
        what="PACS",
    )

    def fetched(progress: Progress, tell: Tell) -> Iterator[Incoming]:
        with DicomWeb(web, user=user, password=os.environ.get("SALUS_PACS_PASSWORD", "")) as server:
            yield from server.incoming(progress, tell)

    return fetched


def sender_of(address: str, user: str, title: str, tls: Tls) -> Callable[[Sequence[Path], Tell], int]:
    """Return what sends objects to a PACS, by STOW-RS or C-STORE; addresses and errors as in `pacs_files`."""
    if address.startswith("dicom://"):
        called, host, port = place_of(address.removeprefix("dicom://"), "--pacs")
        named: dict[str, object] = {"called": called, "host": host, "port": port, "title": title, **vars(tls)}
        network = validate(DimseOptions, named, error=ConfigError, what="PACS")
        network.context(server=False)  # refused before anything is opened
        return lambda paths, tell: store(paths, network, tell)
    web = validate(PacsOptions, {"url": address, "authority": tls.authority}, error=ConfigError, what="PACS")
    password = os.environ.get("SALUS_PACS_PASSWORD", "")
    return lambda paths, tell: post(paths, web, user=user, password=password, tell=tell)


def pushed_files(sender: str, listen: str, idle_s: float, tls: Tls) -> Files:
    """Return what the sender with this AE title pushes, until nothing has arrived for `idle_s` seconds."""
    options = dimse_options({"called": sender}, listen, tls)
    return lambda progress, tell: pushed(options, idle_s, lambda count: tell(count, 0))


def dimse_options(options: dict[str, object], listen: str, tls: Tls) -> DimseOptions:
    """Return options with our own address and TLS files; raises ConfigError if they cannot be used."""
    title, host, port = place_of(listen, "--listen")
    here = {"title": title, "listen_host": host, "listen_port": port, **vars(tls)}
    return validate(DimseOptions, {**options, **here}, error=ConfigError, what="PACS")


def place_of(text: str, option: str) -> tuple[str, str, int]:
    """Return AE title, host and port of a text such as ``SALUS@127.0.0.1:11112``; raises ConfigError for another form."""
    parts = PLACE.match(text)
    if parts is None:
        raise ConfigError(
            f"Expected {option} with an AE title, a host and a port, such as SALUS@127.0.0.1:11112.",
            remedy=f"Correct {option}.",
        )
    return parts[1], parts[2], int(parts[3])


def _register(catalogue: Catalogue, target: Target, store: Path, report: ImportReport) -> dict[str, object]:
    plain = report.to_json()
    partial = (store / REPORT).with_suffix(".partial")
    partial.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    partial.replace(store / REPORT)
    at = datetime.now(UTC)
    page = target.folder / "reports" / f"import-{target.name}-{at:%Y%m%d-%H%M%S}.html"
    write_page(page, f"Import into {target.name}", f"{METHOD}; {at:%Y-%m-%d %H:%M} UTC.", sections_of(report))
    report.check_labels()
    catalogue.merges.merge(report.former)
    if not any(store.rglob("*.dcm")):
        raise DataError(
            f"No image could be used: {json.dumps(plain['refused'])}.", remedy="Check the source and the label file."
        )
    # Images of earlier imports are in the store too.
    options = SourceOptions(
        frames=target.frames,
        suv=target.suv,
        volumes=target.volumes,
        channels=target.channels,
        structures=target.structures,
    )
    found = itertools.chain(
        open_source("imported", store, options, catalogue.decoding).everything(), report.files, report.unmatched
    )
    catalogue.add_records(target.name, "imported", store, options, found, replace=True, declare=target.declare)
    pages = write_pages(target.folder, target.name, store, catalogue.decoding)
    stored = sum(1 for _ in store.rglob("*.dcm"))
    return {**plain, "stored": stored, "page": str(page), "approval_pages": [str(path) for path in pages]}


def complete_or_raise(report: Mapping[str, object]) -> None:
    """Raise DataError if the PACS did not deliver everything that it lists; what came is stored and registered."""
    pacs = report["pacs"]
    if isinstance(pacs, dict) and (missing := pacs.get("missing", 0)):
        raise DataError(
            f"The PACS did not deliver everything: {missing} object(s) or part(s) of its lists are missing. The rest is stored.",
            remedy="Run the import again, which fetches only what is missing, or accept this with --allow-missing.",
        )


def sections_of(report: ImportReport) -> list[Section]:
    """Return an import's counts as sections of a page."""
    counted = [
        ("files found", report.found),
        ("images stored", report.images),
        ("segmentations stored", report.segmentations),
        ("patients", len(report.patients)),
        ("files whose image was already stored", report.duplicates),
        ("files that could not be used", sum(report.refused.values())),
        *((f"not looked at: {reason}", count) for reason, count in report.left_out.most_common()),
    ]
    compared = [
        ("studies that the PACS lists", report.listed["studies"]),
        ("objects that the PACS lists", report.listed["objects"]),
        ("of these, stored by an earlier import", report.earlier),
        ("objects, or parts of lists, that the PACS did not deliver", report.missing),
    ]
    rules = {
        "kept": "elements kept: parsed and written again",
        "dropped": "elements dropped: not on the list",
        "private": "private elements dropped",
        "sequences": "sequences dropped with their contents",
    }
    return [
        Section("Files", rows=counted),
        *([Section("Compared with the PACS", rows=compared)] if report.listed else []),
        Section(
            "Refused",
            columns=("reason", "files", "what to do"),
            rows=[(reason, count, remedy_of(reason)) for reason, count in report.refused.most_common()],
            text="" if report.refused else "None.",
        ),
        Section("Rules", rows=[(rules.get(rule, rule), count) for rule, count in report.rules.most_common()]),
        Section("Devices by vendor", rows=report.vendors.most_common()),
        Section(
            "Profile",
            "DICOM PS3.15 annex E; declared in every stored file.",
            columns=("code", "meaning"),
            rows=METHOD_CODES,
        ),
    ]
