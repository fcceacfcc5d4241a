"""What `salus job check` prints: a table of sites and requirements, then each reason once with its sites."""

from typing import Any

from salus.common.console import out, shown, table

COLUMNS = {
    "data": ("data set", "labels", "modality", "patients"),
    "classes": ("classes",),
    "images, columns": ("images", "columns"),
    "policy": ("policy", "epoch"),
    "budget": ("budget",),
}
ONLY_ASKED = ("policy", "budget")  # not part of a declaration


def show_check(found: dict[str, Any], cost: str, dataset: str = "") -> None:
    """Print a check.

    Args:
        found: the object returned by `Check.to_json`.
        dataset: the data set of a job whose classes have names; empty for any other job.
        cost: the job's cost to a patient's budget, in words; empty without noise.
    """
    if found["busy"]:
        out.print(
            f"Sites that work for {shown(found['busy'])} were not asked: the table shows what they declared earlier.",
            style="yellow",
            soft_wrap=True,
        )
    rows = [
        (site["site"], site["name"], _state(site, bool(found["busy"])), *(_cell(site, name) for name in COLUMNS))
        for site in found["sites"]
    ]
    table("", ["site", "name", "state", *COLUMNS], rows)
    for day, who in _remembered(found["sites"]):
        out.print(f"site {who}: shown as declared on {day}", markup=False, highlight=False, soft_wrap=True)
    if who := _numbered(found["sites"], dataset):
        out.print(
            f"site {who}: the labels of {dataset} are numbers without declared names; 0 is taken for the job's first class, "
            "1 for its second, and so on. Compare the order with the sites, or have them declare the names.",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )  # fmt: skip
    for text, who in _reasons(found["sites"]):
        out.print(f"site {who}: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
    if cost:
        out.print(f"Privacy cost per patient: {cost}", markup=False, highlight=False, soft_wrap=True)
    refusing = sum(1 for site in found["sites"] if site["online"] and site["problems"])
    silent = [str(site["site"]) for site in found["sites"] if _state(site, bool(found["busy"])) == "no answer"]
    if silent:
        out.print(
            f"site {', '.join(silent)}: online, but without an answer in time, which decides nothing. A site at rest first "
            "starts its worker; ask again.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    verdict = f"The job needs {found['needed']} sites; {refusing} of {len(found['sites'])} cannot run it."
    if silent:
        verdict += f" {len(silent)} did not answer."
    out.print(verdict, style=None if found["possible"] else "bold red", highlight=False, soft_wrap=True)


def _state(site: dict[str, Any], busy: bool) -> str:
    """Return the state in one or two short words, so that the table fits in 80 columns."""
    if site["source"] == "asked":
        return "cannot" if site["problems"] else "can run"
    if not site["online"]:
        return "offline"
    return "not asked" if busy else "no answer"


def _remembered(sites: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the days of earlier declarations that are shown instead of an answer, with their sites."""
    by_day: dict[str, list[str]] = {}
    for site in sites:
        if site["source"] == "remembered":
            by_day.setdefault(site["checked_at"][:10], []).append(str(site["site"]))
    return [(day, ", ".join(who)) for day, who in sorted(by_day.items())]


def _cell(site: dict[str, Any], column: str) -> str:
    found = {problem["requirement"] for problem in site["problems"]}
    if found & set(COLUMNS[column]):
        return "no"
    if site["source"] == "unknown" or (site["source"] == "remembered" and column in ONLY_ASKED):
        return "?"
    if "data set" in found and column in ("classes", "images, columns"):
        return "?"  # without the data set there is nothing to compare
    return "?" if column == "budget" and found else "yes"  # a site checks the budget only if everything else fits


def _numbered(sites: list[dict[str, Any]], dataset: str) -> str:
    """Return the sites that have declared numbers as the classes of this data set."""
    declared = {str(site["site"]): (site["declared"].get(dataset) or {}).get("classes", ()) for site in sites}
    return ", ".join(who for who, classes in declared.items() if classes and all(name.isdecimal() for name in classes))


def _reasons(sites: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return each reason once, with its sites."""
    by_text: dict[str, list[str]] = {}
    for site in sites:
        for problem in site["problems"]:
            by_text.setdefault(problem["text"], []).append(str(site["site"]))
    return [(text, ", ".join(who)) for text, who in by_text.items()]
