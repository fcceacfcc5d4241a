"""Models from sums as signed JSON: plain numbers that any program can read, never a pickle.

The file is a signed statement of the coordinator; its document is canonical JSON with the job's hash beside the model, so
a copy still shows from which job it came.
"""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field

from salus.common.canonical import canonical_json
from salus.common.errors import ConfigError
from salus.common.identity import Identity, Signed
from salus.common.strict import Strict, validate

CONTEXT = "salus/sums-model/1"
MAX_MODEL_BYTES = 64 * 2**20


class SumsModel(Strict):
    """A model from sums and where it came from.

    Args:
        format: version of this file.
        job: the job's name and the coordinator's submission number.
        job_sha256: SHA-256 of the signed job document, hexadecimal.
        model: the model; its ``kind`` says how to read it.
    """

    format: Literal[1] = 1
    job: str
    job_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    model: dict[str, Any]


def seal_model(identity: Identity, job_id: str, document: bytes, model: dict[str, Any]) -> bytes:
    """Return the signed file of a model.

    Args:
        document: the signed document of the job.

    Raises:
        ValueError: a number of the model is not finite.
    """
    found = SumsModel(job=job_id, job_sha256=hashlib.sha256(document).hexdigest(), model=model)
    return Signed.seal(identity, CONTEXT, canonical_json(found.model_dump(mode="json"))).to_bytes()


def open_model(data: bytes, coordinator_key: bytes) -> SumsModel:
    """Return a model after checking the coordinator's signature.

    Raises:
        ConfigError: the file is too large, damaged or from a newer version of Salus.
        IdentityError: not signed by this coordinator as a model.
    """
    if len(data) > MAX_MODEL_BYTES:
        raise ConfigError(f"Expected a model of at most {MAX_MODEL_BYTES} bytes.", remedy="Check the file.")
    try:
        signed = validate(Signed, json.loads(data), error=ConfigError, what="model file")
        document = json.loads(signed.open(coordinator_key, CONTEXT, who="the coordinator"))
    except (ValueError, RecursionError):
        raise ConfigError(
            "Expected a model file as signed JSON.", remedy="The file is damaged; copy it again."
        ) from None
    return validate(SumsModel, document, error=ConfigError, what="model file")
