"""The keys that the protection `encryption` adds to the section ``[aggregation]`` of a job."""

from typing import Annotated

from pydantic import Field

from salus.common.strict import Strict


class EncryptionSettings(Strict):
    """Settings of `encryption`.

    Args:
        key_holder: Roster number of the site that decrypts the sum.
    """

    key_holder: Annotated[int, Field(ge=1)]
