"""The page for a patient's file: what the signed paper says, in words, to be printed. It stays at the site."""

from collections.abc import Sequence
from pathlib import Path

from salus.client.withdrawing.paper import JobLine, Paper
from salus.common.pages import Section, write_page

USE = {
    "certain": "used",
    "possible": "may have been used: patients are drawn at random, or no record was kept",
    "none": "not used: only a part of the privacy budget was reserved",
}
FROM_NOW = (
    "From the day of the withdrawal on, no training, no statistics and no evaluation of this site uses the data. Later imports "
    "of the same patient are refused. The original images in the hospital's own systems are not touched."
)
NOT_UNDONE = (
    "Models and statistics that were released before cannot be called back. What follows says, for each of them, how much of one "
    "patient it can hold. A withdrawal cannot be undone."
)


def write_patient_page(path: Path, paper: Paper, patients: Sequence[str]) -> None:
    """Write the page, completely or not at all.

    Args:
        patients: pseudonyms, by which the site finds the patient again.
    """
    who = "the whole site" if paper.who == "site" else "one patient"
    facts: list[tuple[str, object]] = [
        ("paper", paper.number),
        ("day", paper.day),
        ("withdrawn", who),
        ("hospital, to be filled in by hand", "_" * 40),
        *([("name, to be filled in by hand", "_" * 40)] if paper.who == "patient" else []),
        *(("pseudonym at this site", name) for name in patients),
        ("privacy spent over all jobs with noise", f"epsilon {paper.epsilon:.4g} at delta {paper.delta:.3g}"),
    ]
    sections = [
        Section("Withdrawal", rows=facts),
        Section("From now on", FROM_NOW),
        Section("What cannot be undone", NOT_UNDONE),
        Section(
            "Jobs that used the data, or may have used them",
            "" if paper.jobs else "None is recorded.",
            columns=("job", "data set", "use", "first round", "epsilon", "packages here"),
            rows=[_row(line) for line in paper.jobs],
        ),
        *(Section(line.job, f"{line.bound} {line.again}") for line in paper.jobs),
        Section("All jobs with noise together", paper.bound),
        Section(
            "Signature",
            "The site has signed this, without name and pseudonym, in the file of the same number that ends in .json: "
            f"key {paper.site_key[:16]}, ledger {paper.ledger_before[:24]} before and {paper.ledger_after[:24]} after.",
        ),
    ]
    write_page(path, f"Withdrawal {paper.number}", "For the patient's file. For this site only.", sections)


def _row(line: JobLine) -> tuple[object, ...]:
    data = f" ({', '.join(line.data)})" if line.data else ""
    return (
        line.job,
        line.dataset or "unknown",
        f"{USE[line.use]}{data}",
        "unknown" if line.first_round is None else line.first_round,
        "no noise" if line.epsilon is None else f"{line.epsilon:.4g} at delta {line.delta:.3g}",
        ", ".join(package[:16] for package in line.packages) or "none",
    )
