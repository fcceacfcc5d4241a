"""What `salus doctor` says about a site's data sets. It works on copies, beside a running daemon; for a job see `doctor_job`."""

import tempfile
from pathlib import Path

from salus.client.config import CATALOGUE, SiteConfig, copied_catalogue
from salus.client.data.catalogue import Catalogue
from salus.common.clock import Clock
from salus.common.doctor.findings import Finding, skipped
from salus.common.doctor.link import Line
from salus.common.errors import SalusError


def data_checks(
    folder: Path, config: SiteConfig, clock: Clock, job: Path | None, sites: int, line: Line | None
) -> list[Finding]:
    """Return the findings about the data sets, and about a job if one is given.

    Args:
        sites: number of sites on the roster; 0 if no kit is installed.
        line: how fast the line is; None if not measured.
    """
    if not (folder / CATALOGUE).exists():
        empty = Finding("data", "notice", "No data set is registered.", "no-data", "Register one: salus dataset add.")
        return [empty, *([skipped("job", "No data set is registered.")] if job else [])]
    with tempfile.TemporaryDirectory(prefix="salus-doctor-") as place:
        try:
            catalogue = copied_catalogue(folder, Path(place) / CATALOGUE)
            found = [_data(catalogue)]
        except SalusError as problem:
            unreadable = Finding("data", "failed", problem.problem, "unreadable", problem.remedy)
            return [unreadable, *([skipped("job", "The catalogue cannot be read.")] if job else [])]
        if job is not None:
            from salus.client.doctor_job import job_checks

            found += job_checks(folder, Path(place), config, clock, catalogue, job, sites, line)
    return found


def _data(catalogue: Catalogue) -> Finding:
    names, troubles = catalogue.names(), catalogue.troubles.all()
    values = {"datasets": len(names), "troubles": len(troubles)}
    if catalogue.withdrawals.site_left():
        text = "This site has withdrawn and refuses every job."
        return Finding("data", "notice", text, "refused", "See `salus client status`.", values=values)
    if troubles:
        text = " ".join(trouble.line for trouble in troubles[:3])
        return Finding("data", "failed", text, "trouble", "See `salus dataset check`.", values=values)
    if not names:
        return Finding("data", "notice", "No data set is registered.", "no-data", "Register one: salus dataset add.")
    return Finding(
        "data", "ok", f"{len(names)} data set{'s' * (len(names) > 1)}, without open problems.", values=values
    )
