"""What a bill of materials lacks for the release of a package: software, or licences of what Salus needs."""

from collections.abc import Mapping
from typing import Any

from salus.common.package import layout

OPTIONAL = ("optional", "excluded")  # what is left out or says anything else counts as required, as in CycloneDX
MOST_NAMED = 5


def licence_gaps(bill: Any, software: Any) -> list[str]:
    """Return what stands against a release in the values of ``sbom.json`` and ``versions.json``, a sentence for each.

    The libraries of ``versions.json``, on which the model's numbers depend, are needed whatever their scope is.
    """
    components = bill.get("components") if isinstance(bill, Mapping) else None
    if not isinstance(components, list) or not components:
        return [f"{layout.SBOM} lists no software"]
    named = [one for one in components if isinstance(one, Mapping) and isinstance(one.get("name"), str)]
    if len(named) < len(components):
        return [f"{layout.SBOM} lists software without a name"]
    libraries = software.get("libraries") if isinstance(software, Mapping) else None
    if not isinstance(libraries, Mapping) or not libraries:
        return [f"{layout.VERSIONS} names no libraries"]
    if absent := [name for name in libraries if name not in {one["name"].lower() for one in named}]:
        return [f"{layout.SBOM} does not list {_few(absent)}"]
    needed = [one for one in named if one.get("scope") not in OPTIONAL or one["name"].lower() in libraries]
    without = [one["name"] for one in needed if not _licensed(one.get("licenses"))]
    return [f"{layout.SBOM} lists no licence of {_few(without)}"] if without else []


def _licensed(stated: Any) -> bool:
    """Return whether a list of licences names one: by an expression, or by the id or name of a licence."""
    return isinstance(stated, list) and any(_named(one) for one in stated)


def _named(one: Any) -> bool:
    if not isinstance(one, Mapping):
        return False
    licence = one.get("license")
    texts = [one.get("expression"), *([licence.get("id"), licence.get("name")] if isinstance(licence, Mapping) else [])]
    return any(isinstance(text, str) and text.strip() for text in texts)


def _few(names: list[str]) -> str:
    return ", ".join(name[:80] for name in names[:MOST_NAMED])
