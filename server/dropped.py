"""Which sites were not in the sums of a finished job, and why: for the report and the card."""

from collections.abc import Iterable, Mapping, Sequence

from salus.common.events import Event
from salus.privacy.records.card import MAX_REASON, LeftOut

UNKNOWN = "no reason is recorded"


def left_out_of(
    records: Sequence[Mapping[str, object]], events: Iterable[Event], names: Mapping[int, str]
) -> tuple[LeftOut, ...]:
    """Return each site that was missing in a round, with the number of such rounds and the reason in the last one.

    Args:
        records: of the job's rounds, which name the sites in each sum.
        events: of the job; the reason is the site's answer in the round, or else why it was not asked.
        names: of the roster with which the job began, by site.
    """
    answers: dict[tuple[int, int], str] = {}
    unasked: dict[int, str] = {}
    reasons: dict[tuple[int, int], str] = {}
    for event in events:
        site, text, round_ = event.fields.get("site"), str(event.fields.get("text", "")), event.fields.get("round")
        if event.kind == "left-out" and isinstance(site, int) and isinstance(round_, int):
            answers[site, round_] = text
        elif event.kind == "not-asked" and isinstance(site, int):
            unasked[site] = text
        elif event.kind == "round" and isinstance(round_, int):
            for one in names:
                reasons[one, round_] = answers.get((one, round_)) or unasked.get(one, UNKNOWN)
    found = []
    for one, name in sorted(names.items()):
        missing = [number for record in records if one not in _sites(record) for number in [_round(record)]]
        if missing:
            reason = reasons.get((one, missing[-1]), UNKNOWN)[:MAX_REASON]
            found.append(LeftOut(site=one, name=name, rounds=len(missing), last=missing[-1], reason=reason))
    return tuple(found)


def _sites(record: Mapping[str, object]) -> Sequence[object]:
    sites = record.get("sites")
    return sites if isinstance(sites, list) else []


def _round(record: Mapping[str, object]) -> int:
    number = record.get("round")
    return number if isinstance(number, int) else 0
