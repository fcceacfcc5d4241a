"""`salus verify`: a package or a transcript checked by a third party."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from salus.common.console import emit_json, example, out, shown, table
from salus.common.errors import ConfigError, ProtectionError


def verify(
    path: Annotated[
        Path, typer.Argument(help="A package, or a transcript from the coordinator's folder transcripts/.")
    ],
    kit: Annotated[
        Path | None,
        typer.Option(help="Any kit of the consortium, also an expired one; its key verifies the roster."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify a package or a transcript of protected sums as a third party, with the roster of its job: hashes, signatures,
    thresholds, cohorts and ledgers. Print the privacy that each site has spent; exit code 14 if the package was changed,
    41 if the transcript is not valid."""
    from salus.common.package.files import is_package, must_exist
    from salus.server.commands.model import show

    must_exist(path)
    if is_package(path):
        show(path, kit, as_json)
    elif kit is None:
        raise ConfigError("A transcript is verified with a kit of the consortium.", remedy="Give --kit.")
    else:
        _verify_transcript(path, kit, as_json)


def _verify_transcript(transcript: Path, kit: Path, as_json: bool) -> None:
    from salus.common.identity import unhex
    from salus.common.kit import read_kit
    from salus.privacy.protection import protection_of
    from salus.privacy.records.card import privacy_card
    from salus.server.transcripts import verify_file

    checked = verify_file(transcript, unhex(read_kit(kit).consortium_key))
    verified, roster = checked.verified, checked.roster
    if not verified.sums:
        raise ProtectionError(
            "The transcript is signed and complete so far, but holds no finished sum: nothing could be verified.",
            remedy="Ask the coordinator for the transcript of a job that has finished a round.",
        )
    counted = protection_of(verified.job).transcript
    card = privacy_card(verified.job, verified.sent if counted else None, roster.names())
    if as_json:
        named = {"serial": roster.serial, "valid_until": roster.valid_until.isoformat(), "sites": roster.names()}
        emit_json(
            {
                "sums": verified.sums,
                "privacy": card.model_dump(mode="json"),
                "roster": named,
                "not_shown": list(checked.unproven),
            }
        )
        return
    out.print(
        f"The transcript is valid. Roster {roster.serial} of [bold]{shown(roster.consortium)}[/], {len(roster.sites)} sites, "
        f"valid from {roster.valid_from:%Y-%m-%d} to {roster.valid_until:%Y-%m-%d}."
    )
    table(
        f"{len(verified.sums)} sums, all permitted",
        ["round", "attempt", "kind", "sites", "consents"],
        [_sum_row(found) for found in verified.sums],
    )
    table(
        f"Privacy: {card.statement}",
        ["site", "attempts", "epsilon", "delta"],
        [
            (row.name, row.attempts, "none" if row.epsilon is None else f"{row.epsilon:.3f}", row.delta)
            for row in card.sites
        ],
    )
    out.print("A transcript cannot prove:")
    for sentence in checked.unproven:
        out.print(f"- {sentence}", markup=False)


def _sum_row(found: Mapping[str, Any]) -> tuple[object, ...]:
    """Return a sum's line; attempts are counted from 1, as in a job's events."""
    return found["round"], found["attempt"] + 1, found["kind"], ", ".join(map(str, found["sites"])), found["consents"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=example("salus verify coordinator/transcripts/job-0001.jsonl --kit kits/site-1.kit"))(verify)
