"""TCGA-BRCA as FLamby distributes it (du Terrail et al. 2022, arXiv 2210.04620), as one table for each of its six regions.

    python -m salus.simulations.tcga FOLDER OUT

reads ``brca.csv`` and ``dataset_creation_scripts/train_test_split.csv`` below FOLDER and writes ``region-0.csv`` ... to OUT, with
FLamby's split, so that results can be compared with the published ones.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path

from salus.common.errors import DataError

SPLITS = Path("dataset_creation_scripts/train_test_split.csv")


def write_regions(folder: Path, out: Path) -> list[Path]:
    """Write the tables and return their paths.

    Raises:
        DataError: files are missing.
    """
    try:
        with (folder / SPLITS).open(newline="", encoding="utf-8") as file:
            places = {row["pid"]: (row["fold"], row["fold2"].rpartition("_")[2]) for row in csv.DictReader(file)}
        with (folder / "brca.csv").open(newline="", encoding="utf-8") as file:
            patients = list(csv.DictReader(file))
    except (OSError, KeyError):
        raise DataError(
            f"Expected brca.csv and {SPLITS} in {folder.name!r}.", remedy="Name FLamby's folder fed_tcga_brca."
        ) from None
    regions: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in patients:
        if row["pid"] not in places:
            continue  # FLamby's split leaves some patients out
        split, region = places[row["pid"]]
        renamed = {("event" if k == "E" else "time" if k == "T" else k): v for k, v in row.items()}
        regions[region].append({**renamed, "split": split})
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for region, rows in sorted(regions.items()):
        path = out / f"region-{region}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        written.append(path)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m salus.simulations.tcga FOLDER OUT")
    print(f"{len(write_regions(Path(sys.argv[1]), Path(sys.argv[2])))} regions")
