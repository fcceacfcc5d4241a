"""The privacy card of a job that this coordinator ran, from its transcript."""

from collections.abc import Mapping
from pathlib import Path

from salus.common.job import Job
from salus.privacy.protection import protection_of
from salus.privacy.records.card import PrivacyCard, privacy_card
from salus.server.transcripts import verify_entries


def card_of_job(job: Job, transcript: Path, roster_keys: Mapping[int, bytes], names: Mapping[int, str]) -> PrivacyCard:
    """Return the card of a job from its transcript, or from its plan if the protection keeps none.

    Raises:
        ProtectionError: the transcript is not valid.
    """
    if not protection_of(job).transcript or not transcript.exists():
        return privacy_card(job, None, names)
    return privacy_card(job, verify_entries(transcript, roster_keys).sent, names)
