"""The last step of an image's first stage: removes what no image needs, compiles the rest, writes the bill of materials.

Run by the Python of the installation. Removed are tests and C++ headers of libraries, never code of a library itself.
"""

import compileall
import json
import shutil
import sys
from pathlib import Path
from typing import Any

PACKAGES = Path(sys.prefix) / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
# Compiled tests and headers of torch; torch_shm_manager in its bin/ is a part of torch and stays.
UNUSED = ("torch/include", "torch/test", "torch/share")
DPKG = Path("/var/lib/dpkg/status")


def shrink(packages: Path) -> int:
    """Remove tests, headers and static libraries; returns the number of bytes."""
    folders = [packages / name for name in UNUSED]
    folders += [path for name in ("numpy", "scipy", "pandas") for path in (packages / name).rglob("tests")]
    files = [path for path in (packages / "torch" / "bin").glob("*") if path.name != "torch_shm_manager"]
    files += packages.rglob("*.a")
    removed = 0
    for path in [*folders, *files]:
        if path.is_dir() and not path.is_symlink():
            removed += sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
            shutil.rmtree(path)
        elif path.is_file():
            removed += path.stat().st_size
            path.unlink()
    return removed


def debian(status: str) -> list[dict[str, Any]]:
    """Return the installed packages of Debian as components of a bill of materials."""
    found = []
    for block in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != " ")
        if "installed" in fields.get("Status", "").split() and "Version" in fields:
            reference = f"pkg:deb/debian/{fields['Package']}@{fields['Version']}?arch={fields.get('Architecture', '')}"
            found.append(
                {
                    "type": "library",
                    "bom-ref": reference,
                    "name": fields["Package"],
                    "version": fields["Version"],
                    "purl": reference,
                }
            )
    return found


def main() -> None:
    """Shrink this installation, compile it, and write ``share/sbom.cdx.json`` into it."""
    from salus.server.packaging.software import bill_of_materials

    print(f"Removed {shrink(PACKAGES) / 1e6:.0f} MB.")
    compileall.compile_dir(PACKAGES, quiet=2, workers=0)  # the file system of a container is read-only
    bill = bill_of_materials()
    if DPKG.exists():
        bill["components"] += debian(DPKG.read_text())
    path = Path(sys.prefix) / "share" / "sbom.cdx.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(bill, indent=1) + "\n")


if __name__ == "__main__":
    main()
