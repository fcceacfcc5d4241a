"""The packaging habits: links, wheel map and folders agree; what is installed stays small."""

import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"client", "common", "privacy", "server", "simulations"}


def test_links_wheel_map_and_folders_agree() -> None:
    links = {path.name: path.readlink() for path in (ROOT / "src" / "salus").iterdir() if path.is_symlink()}
    assert links == {name: Path("../..") / name for name in FOLDERS}
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["only-include"]) & FOLDERS == FOLDERS
    assert {key: value for key, value in wheel["sources"].items() if key in FOLDERS} == {
        n: f"salus/{n}" for n in FOLDERS
    }
    assert all((ROOT / name / "__init__.py").is_file() for name in FOLDERS)


def test_every_package_folder_is_a_package() -> None:
    for name in FOLDERS:
        for path in (ROOT / name).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), f"{path.parent} lacks __init__.py"


def test_modules_and_functions_stay_short() -> None:
    import ast

    for name in FOLDERS:
        for path in (ROOT / name).rglob("*.py"):
            text = path.read_text()
            assert text.count("\n") <= 330, f"{path.relative_to(ROOT)} is long; split it by idea"
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or 0) - node.lineno
                    assert length <= 65, f"{path.relative_to(ROOT)}:{node.name} has {length} lines"


def test_constraints_pin_every_dependency() -> None:
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [
        *PROJECT["project"]["dependencies"],
        *(name for extra in extras if extra != "ray" for name in extras[extra]),
    ]
    for requirement in wanted:
        if requirement.startswith("salus["):
            continue  # the development tools include an extra of our own
        name = requirement.split("=")[0].split(">")[0].split("<")[0].split("[")[0].strip().lower()
        assert name in pinned, f"{name} is not in constraints.txt"
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text()


def test_a_sites_install_has_no_ray() -> None:
    assert not any(
        "ray" in requirement for requirement in PROJECT["project"]["dependencies"] if "array" not in requirement
    )
    assert "flwr==1.41.0" in PROJECT["project"]["dependencies"]


@pytest.mark.slow
def test_the_wheel_holds_the_code_and_no_tests(tmp_path: Path) -> None:
    import subprocess
    import sys

    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)], check=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for wanted in (
        "salus/cli.py",
        "salus/py.typed",
        "salus/server/templates/report.html.j2",
        "salus/simulations/jobs/phantom-lesion.toml",
    ):
        assert wanted in names
    assert not any(name.startswith(("tests", "salus/tests")) for name in names)
