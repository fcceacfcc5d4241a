"""The software with which a model was made: versions, and a bill of materials in the form of CycloneDX.

Read from the metadata of the installed distributions (`importlib.metadata`). CycloneDX: ECMA-424, version 1.6.
"""

import platform
import re
import uuid
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from salus import __version__
from salus.common.canonical import canonical_json
from salus.common.versions import MODEL_FORMAT, PROTOCOL

MAX_LICENCE = 100  # characters of a licence's name; some distributions put the whole text there
_NAME = re.compile(r"^[A-Za-z0-9._-]+")
NAMED = ("numpy", "torch", "monai", "safetensors", "cryptography", "flwr")


def versions() -> dict[str, Any]:
    """Return the versions of Salus, its formats, Python and the libraries on which a model's numbers depend."""
    return {
        "format": 1,
        "salus": __version__,
        "protocol": PROTOCOL,
        "model_format": MODEL_FORMAT,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": {name: version for name in NAMED if (version := _version(name))},
    }


def bill_of_materials() -> dict[str, Any]:
    """Return every installed distribution with version and licence; those that Salus needs have the scope ``required``."""
    found = {_key(one.metadata["Name"]): one for one in metadata.distributions() if one.metadata["Name"]}
    needed = set(_needed(found))
    return document([_component(one, required=key in needed) for key, one in sorted(found.items()) if key != "salus"])


def document(components: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a bill of materials with these components."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, canonical_json(components).decode())}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": f"pkg:pypi/salus@{__version__}",
                "name": "salus",
                "version": __version__,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
    }


def _component(one: metadata.Distribution, *, required: bool) -> dict[str, Any]:
    name, licence = one.metadata["Name"], licence_of(one.metadata)
    return {
        "type": "library",
        "bom-ref": f"pkg:pypi/{_key(name)}@{one.version}",
        "name": name,
        "version": one.version,
        "purl": f"pkg:pypi/{_key(name)}@{one.version}",
        "scope": "required" if required else "optional",
        **({"licenses": [licence]} if licence else {}),
    }


def licence_of(stated_in: metadata.PackageMetadata) -> dict[str, Any] | None:
    """Return the licence that a distribution states: an SPDX expression, or else a name."""
    if "License-Expression" in stated_in:
        return {"expression": stated_in["License-Expression"]}
    stated = stated_in["License"].strip() if "License" in stated_in else ""
    classified = [
        line.rpartition(" :: ")[2]
        for line in stated_in.get_all("Classifier") or []
        if line.startswith("License ::") and line != "License :: OSI Approved"
    ]
    usable = stated not in ("", "UNKNOWN") and len(stated) <= MAX_LICENCE and "\n" not in stated
    name = stated if usable else ", ".join(classified)
    return {"license": {"name": name[:MAX_LICENCE]}} if name else None


def _needed(found: Mapping[str, metadata.Distribution]) -> Iterator[str]:
    """Yield the names of the distributions that Salus needs without extras; all of them if Salus is not installed as one."""
    if "salus" not in found:
        yield from found
        return
    waiting, seen = ["salus"], set[str]()
    while waiting:
        key = waiting.pop()
        if key in seen or key not in found:
            continue
        seen.add(key)
        yield key
        for requirement in found[key].requires or []:
            name = _NAME.match(requirement)
            if name and "extra ==" not in requirement:
                waiting.append(_key(name.group()))


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
