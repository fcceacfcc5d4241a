"""Makes a folder from which Salus is installed without internet: wheels, their hashes, and a bill of materials.

    python deploy/bundle.py dist/bundle                       # or: make offline-bundle

    wheels/                         every wheel, Salus' own and pip among them
    requirements.txt                what a hospital installs, with the SHA-256 of each wheel
    requirements-coordinator.txt    what a coordinator needs: no torch, and nothing that needs it
    install.sh                      sh install.sh FOLDER [coordinator]
    sbom.cdx.json                   all wheels with version, licence and hash (CycloneDX 1.6)
    SHA256SUMS                      of all files of the bundle: sha256sum --check SHA256SUMS

Run it with the Python version, and on the kind of machine, for which the bundle is meant.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
# What computes with networks, and readers of images that only they use; see tests/without_torch.
NOT_AT_A_COORDINATOR = frozenset(("torch", "monai", "opacus", "einops", "nibabel", "pynetdicom", "python-gdcm"))
OWN, COORDINATOR_EXTRA = "salus", "postgres"


@dataclass(frozen=True)
class Wheel:
    """One wheel and what its metadata say."""

    path: Path
    metadata: Message

    @property
    def name(self) -> str:
        """Its normalised name."""
        return key_of(str(self.metadata["Name"]))

    @property
    def version(self) -> str:
        """Its version."""
        return str(self.metadata["Version"])

    @property
    def sha256(self) -> str:
        """Hash of the file, hexadecimal."""
        return sha256_of(self.path)

    def requires(self, extras: Collection[str]) -> Iterator[Requirement]:
        """Yield what it needs on this machine with these extras."""
        for line in self.metadata.get_all("Requires-Dist") or []:
            found = Requirement(line)
            if found.marker is None or any(found.marker.evaluate({"extra": extra}) for extra in extras or ("",)):
                yield found


def key_of(name: str) -> str:
    """Return the normalised name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def sha256_of(path: Path) -> str:
    """Return the hash of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wheels_in(folder: Path) -> dict[str, Wheel]:
    """Return the wheels of a folder by normalised name."""
    found = {}
    for path in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(path) as archive:
            name = next(one for one in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", one))
            wheel = Wheel(path, Parser().parsestr(archive.read(name).decode(), headersonly=True))
        found[wheel.name] = wheel
    return found


def needed(wheels: Mapping[str, Wheel], roots: Iterable[Requirement], without: Collection[str] = ()) -> list[Wheel]:
    """Return the wheels that some requirements need, by name.

    Args:
        without: names that are left out, with what only they need.
    """
    waiting, seen = list(roots), dict[str, frozenset[str]]()
    while waiting:
        one = waiting.pop()
        name, extras = key_of(one.name), frozenset(one.extras)
        if name in without or (name in seen and extras <= seen[name]):
            continue
        seen[name] = extras | seen.get(name, frozenset())
        waiting += wheels[name].requires(extras)
    return [wheels[name] for name in sorted(seen)]


def requirements(wheels: Iterable[Wheel]) -> str:
    """Return the text of a requirements file with hashes."""
    return "".join(f"{one.name}=={one.version} --hash=sha256:{one.sha256}\n" for one in wheels)


def bill_of_materials(wheels: Iterable[Wheel]) -> dict[str, Any]:
    """Return the wheels as a CycloneDX document."""
    from salus.server.packaging.software import document, licence_of

    components = []
    for one in wheels:
        licence = licence_of(one.metadata)
        components.append(
            {
                "type": "library",
                "bom-ref": f"pkg:pypi/{one.name}@{one.version}",
                "name": str(one.metadata["Name"]),
                "version": one.version,
                "purl": f"pkg:pypi/{one.name}@{one.version}",
                "hashes": [{"alg": "SHA-256", "content": one.sha256}],
                **({"licenses": [licence]} if licence else {}),
            }
        )
    return document(components)


def collect(wheels: Path, extras: str, torch_index: str) -> None:
    """Build Salus' own wheel and fetch all that it needs; what has no wheel is built."""
    with tempfile.TemporaryDirectory() as scratch:
        run("-m", "build", "--wheel", "--outdir", scratch, str(ROOT))
        own = next(Path(scratch).glob("*.whl"))
        index = ("--extra-index-url", torch_index) if torch_index else ()
        limits = ("--constraint", str(ROOT / "constraints.txt"))
        run(
            "-m", "pip", "wheel", *index, *limits, "--wheel-dir", str(wheels), f"{own}[{extras},{COORDINATOR_EXTRA}]", "pip"
        )  # fmt: skip


def run(*words: str) -> None:
    """Run this Python with these arguments; ends the program where it fails."""
    if subprocess.run([sys.executable, *words]).returncode:
        sys.exit(f"Failed: python {' '.join(words)}")


def write(bundle: Path, extras: str) -> None:
    """Write everything of a bundle but its wheels."""
    wheels = wheels_in(bundle / "wheels")
    whole, bare = (Requirement(f"{OWN}[{one}]") for one in (extras, COORDINATOR_EXTRA))
    files = {
        "requirements.txt": requirements(needed(wheels, [whole])),
        "requirements-coordinator.txt": requirements(needed(wheels, [bare], NOT_AT_A_COORDINATOR)),
        "install.sh": (ROOT / "deploy" / "install.sh").read_text(),
        "finish.py": (ROOT / "deploy" / "finish.py").read_text(),
        "sbom.cdx.json": json.dumps(bill_of_materials(wheels.values()), indent=1) + "\n",
    }
    for name, text in files.items():
        (bundle / name).write_text(text)
    write_sums(bundle)


def write_sums(bundle: Path) -> None:
    """Write the hashes of all files of a bundle, without which `install.sh` does nothing."""
    paths = sorted(path for path in bundle.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    (bundle / "SHA256SUMS").write_text(
        "".join(f"{sha256_of(path)}  {path.relative_to(bundle).as_posix()}\n" for path in paths)
    )


def main() -> None:
    """Make the bundle that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="folder to make; it must not exist")
    parser.add_argument("--extras", default="dicom-out", help="extras of a site, separated by commas")
    parser.add_argument("--torch-index", default="", help="a further index, such as that of torch's builds for CPUs")
    words = parser.parse_args()
    if words.bundle.exists():
        sys.exit(f"{words.bundle} exists already; remove it, or name another folder.")
    (words.bundle / "wheels").mkdir(parents=True)
    collect(words.bundle / "wheels", words.extras, words.torch_index)
    write(words.bundle, words.extras)
    print(f"Wrote {words.bundle}, {sum(p.stat().st_size for p in words.bundle.rglob('*')) / 1e6:.0f} MB.")


if __name__ == "__main__":
    main()
