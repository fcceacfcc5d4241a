"""The optional package that writes DICOM objects, and what a segmentation and a report both say with it."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from salus.client.data.dicom.instances import Instance
from salus.client.outgoing.producer import MANUFACTURER, RESEARCH, Producer
from salus.common.codes import Code
from salus.common.errors import ConfigError

ARTIFICIAL_INTELLIGENCE = Code(scheme="DCM", value="123110", meaning="Artificial Intelligence")


def require_highdicom() -> Any:
    """Return highdicom.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import highdicom
        import highdicom.sc
        import highdicom.seg
        import highdicom.sr
    except ImportError:
        raise ConfigError(
            "DICOM segmentations, reports and pictures are written by the package highdicom, which is not installed.",
            remedy="Run: pip install 'salus[dicom-out]'; salus predict also works without --seg, --sr and --sc.",
        ) from None
    return highdicom


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and log lines of highdicom and pydicom away from screens and logs: they quote names of patients."""
    loggers = [logging.getLogger(name) for name in ("highdicom", "pydicom")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def qualified(written: Any, source: Instance) -> bytes:
    """Return an object's file, in which the object says that it is for research (Content Qualification, PS3.3, C.12.1).

    Args:
        source: whose patient it is of; highdicom leaves out who issued the patient's identifier.
    """
    written.ContentQualification = RESEARCH
    if source.texts.get("IssuerOfPatientID"):
        written.IssuerOfPatientID = source.texts["IssuerOfPatientID"]
    buffer = io.BytesIO()
    written.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def concept(code: Code) -> Any:
    """Return a code as highdicom's."""
    return require_highdicom().sr.CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


def algorithm_of(producer: Producer) -> Any:
    """Return the identification of the model (PS3.3, table 10-19)."""
    return require_highdicom().AlgorithmIdentificationSequence(
        name=producer.job,
        family=concept(ARTIFICIAL_INTELLIGENCE),
        version=producer.model_sha256[:16],
        source=MANUFACTURER,
    )
