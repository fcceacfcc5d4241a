"""Every print of the product: a value inside a string with rich markup is either made safe by `shown`, or cannot hold text."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAFE_CALLS = {"shown", "fingerprint", "len", "sum", "round", "abs", "min", "max", "type"}
SOURCES = sorted(
    path
    for package in ("client", "server", "simulations", "common")
    for path in (ROOT / package).rglob("*.py")
    if "benchmarks" not in path.parts
)


def unsafe(source: str) -> list[str]:
    """Return the values in f-strings given to ``print`` with markup that nobody made safe."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "print"):
            continue
        plain = any(
            key.arg == "markup" and isinstance(key.value, ast.Constant) and not key.value.value for key in call.keywords
        )
        if plain:
            continue
        for part in ast.walk(ast.Module(body=[ast.Expr(argument) for argument in call.args], type_ignores=[])):
            if isinstance(part, ast.FormattedValue) and not _safe(part):
                found.append(f"line {part.lineno}: {ast.unparse(part.value)}")
    return found


def _safe(part: ast.FormattedValue) -> bool:
    value = part.value
    if part.format_spec is not None or isinstance(value, ast.Constant):
        return True  # a number or a date: text has no such format
    if isinstance(value, ast.Call):
        name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
        return name in SAFE_CALLS
    if isinstance(value, ast.IfExp):
        return all(isinstance(side, ast.Constant) for side in (value.body, value.orelse))
    return isinstance(value, ast.Attribute) and value.attr in {"serial", "id", "length", "__name__"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_of_others_is_read_as_markup(path: Path) -> None:
    assert unsafe(path.read_text()) == [], "wrap it in `shown`, or print with markup=False"


def test_the_check_finds_what_it_should() -> None:
    assert unsafe('out.print(f"Added {name}")') == ["line 1: name"]
    assert unsafe('out.print(f"[bold]{shown(name)}[/] {len(x)} {x:.3f} {a.serial}")') == []
    assert unsafe('out.print(f"{name}", markup=False)') == []
    assert unsafe('out.print(f"{name}", markup=True)') != []
