"""`salus doctor`: one command for a site and for the coordinator."""

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from salus.common.clock import SystemClock
from salus.common.console import emit_json, example, out, shown, table
from salus.common.doctor.findings import FAILED_EXIT, Report
from salus.common.errors import ConfigError

MARKS = {"ok": "ok", "notice": "NOTICE", "failed": "FAILED", "skipped": "-"}


def register(app: typer.Typer, examiners: Mapping[str, str]) -> None:
    """Add the command.

    Args:
        examiners: the module that checks a folder, by the file that the folder has; it has `examine` and `settings_of`.
    """

    @app.command(epilog=example("salus doctor ./site --job job.toml"))
    def doctor(
        folder: Annotated[Path, typer.Argument(help="The folder of a site or of the coordinator.")],
        job: Annotated[Path | None, typer.Option(help="A job file to compare with this machine and its data.")] = None,
        url: Annotated[str, typer.Option(help="The coordinator's URL, to try the network before a kit is here.")] = "",
        bundle: Annotated[
            Path | None,
            typer.Option(help="Write a support file: numbers and fixed words only, no names, no secrets."),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Find out why a site or the coordinator does not work, and what to tell the network team.

        It may run beside the daemon and does not disturb a job. Exit code 70 if a check failed.
        """
        examine, settings_of = _examiner(folder, examiners)
        _check_url(url)
        report: Report = examine(folder, SystemClock(), os.environ, url=url, job=job)
        if bundle is not None:
            from salus.common.doctor.bundle import write_bundle

            write_bundle(bundle, folder, report, settings_of(folder))
        if as_json:
            emit_json(report.to_json())
        else:
            _show(report)
            if bundle is not None:
                out.print(f"Wrote the support file {shown(bundle)}. Look into it before you send it: it is text.")
        if not report.healthy:
            raise typer.Exit(FAILED_EXIT)


def _check_url(url: str) -> None:
    """Raise ConfigError for a URL that no kit could name."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        valid = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        valid = False
    if not valid:
        raise ConfigError(
            f"Expected a URL such as https://salus.example.org:8443, got {url[:120]!r}.", remedy="Correct --url."
        )


def _examiner(folder: Path, examiners: Mapping[str, str]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    for name, place in examiners.items():
        if (folder / name).exists():
            module = import_module(place)
            return module.examine, module.settings_of
    raise ConfigError(
        f"{folder.name!r} is neither a site's nor a coordinator's folder.",
        remedy="Give the folder that `salus client init` or `salus server init` created.",
    )


def _show(report: Report) -> None:
    rows = [(finding.check, MARKS[finding.status], finding.found) for finding in report.findings]
    table("", ["check", "", "found"], rows)
    for finding in report.findings:
        if finding.remedy:
            out.print(f"[bold]{shown(finding.check)}[/]: {shown(finding.remedy)}", soft_wrap=True)
        if finding.network_team:
            out.print("  For the network team:", style="bold")
            out.print(f"  {finding.network_team}", markup=False, highlight=False, soft_wrap=True)
