"""The names that a package may hold, how large each may be, and the signed manifest."""

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from salus.common.names import DisplayName
from salus.common.roster import HexKey
from salus.common.strict import Strict

CONTEXT = "salus/package/1"
MANIFEST, JOB, ROSTER = "manifest.json", "job.json", "roster.json"
MODEL, SUMS_MODEL, INPUTS = "model.safetensors", "model.json", "inputs.json"
CARD, PRIVACY, EVALUATION, TRANSCRIPT = "card.json", "privacy.json", "evaluation.json", "transcript.jsonl"
START = "start.json"  # the list of the weights with which the job began
VERSIONS, SBOM, DOCUMENTATION, MODEL_CARD = "versions.json", "sbom.json", "documentation.json", "model-card.md"
ONNX, ONNX_FACTS = "onnx/model.onnx", "onnx/onnx.json"
TREES = "trees/xgboost.json"
BUNDLE_METADATA, BUNDLE_CONFIG = "bundle/configs/metadata.json", "bundle/configs/inference.json"
BUNDLE_NETWORK = "bundle/models/model.onnx"
RELEASE, AUDIT = "release.json", "audit.json"  # added when a package is released; the release signs the audit
MIB = 2**20
LIMITS = {
    MANIFEST: MIB,
    JOB: MIB,
    ROSTER: 32 * MIB,  # ten thousand sites
    MODEL: 3 * 2**30,  # a zip without extensions holds four
    SUMS_MODEL: 64 * MIB,
    START: 16 * MIB,
    INPUTS: MIB,
    CARD: 4 * MIB,
    PRIVACY: 8 * MIB,
    EVALUATION: 16 * MIB,
    TRANSCRIPT: 32 * MIB,  # a few thousand rounds of ten sites; of a larger one the package has the hash
    VERSIONS: MIB,
    SBOM: 8 * MIB,
    DOCUMENTATION: 16 * MIB,
    MODEL_CARD: 16 * MIB,
    ONNX: 2**31 - 1,  # the most that its encoding allows
    ONNX_FACTS: MIB,
    BUNDLE_METADATA: MIB,
    BUNDLE_CONFIG: MIB,
    BUNDLE_NETWORK: 2**31 - 1,
    TREES: 256 * MIB,
    RELEASE: MIB,
    AUDIT: 8 * MIB,
}
ENDORSEMENT = re.compile(r"endorsements/site-([1-9][0-9]{0,4})\.json")  # added by sites; each is signed by its site
MAX_ENDORSEMENT = MIB
ALWAYS = (JOB, ROSTER, INPUTS, CARD, PRIVACY, EVALUATION, VERSIONS, SBOM, DOCUMENTATION)
MODELS = (MODEL, SUMS_MODEL)
MAX_FILES = 64
MAX_ADDED = 1000  # a release and endorsements
Digest = HexKey


def limit_of(name: str) -> int | None:
    """Return the largest size of a file in bytes; None for a name that a package never has."""
    return MAX_ENDORSEMENT if ENDORSEMENT.fullmatch(name) else LIMITS.get(name)


def is_added(name: str) -> bool:
    """Return whether a file is not in the manifest, because it says something about the whole package."""
    return name in (MANIFEST, RELEASE, AUDIT) or ENDORSEMENT.fullmatch(name) is not None


class FileLine(Strict):
    """One file of a package.

    Args:
        size: in bytes.
        sha256: of its bytes, hexadecimal.
    """

    name: Annotated[str, Field(max_length=100)]
    size: Annotated[int, Field(ge=0, le=LIMITS[MODEL])]
    sha256: Digest


class Manifest(Strict):
    """What the coordinator signs: the job, the roster, and every file.

    Args:
        format: version of this format.
        job_id: the job's name and the coordinator's submission number.
        job_sha256, roster_sha256: of the documents that were signed.
        consortium_key: with which the roster was signed; whoever checks a package compares it with the key that was pinned.
        created: when the package was written.
        files: by name, ascending.
    """

    newest_format: ClassVar[int] = 1

    format: Literal[1] = 1
    job_id: Annotated[str, Field(min_length=1, max_length=200)]
    job_sha256: Digest
    roster_sha256: Digest
    consortium: DisplayName
    consortium_key: HexKey
    created: AwareDatetime
    salus: Annotated[str, Field(max_length=40)]
    files: Annotated[tuple[FileLine, ...], Field(max_length=MAX_FILES)]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [line.name for line in self.files]
        if names != sorted(set(names)):
            raise ValueError("expected every file once, by ascending name")
        for line in self.files:
            most = limit_of(line.name)
            if is_added(line.name) or most is None or line.size > most:
                raise ValueError("expected only files of a package, each within its size")
        missing = [name for name in ALWAYS if name not in names]
        if missing or len(set(names) & set(MODELS)) != 1:
            raise ValueError(f"expected one model and {', '.join(missing) or 'nothing else'}")
        return self

    def line(self, name: str) -> FileLine | None:
        """Return the line of a file; None if the package has no such file."""
        return next((line for line in self.files if line.name == name), None)
