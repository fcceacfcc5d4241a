"""What a protection promises, in words that name its numbers."""

import pytest
from tests.builders import tiny_job

from salus.privacy.protection import protection_of
from salus.privacy.protocol.parameters import thresholds


@pytest.mark.parametrize("sites", [5, 8])
def test_the_promise_names_how_many_sites_may_collude_and_how_many_do_not(sites: int) -> None:
    limits = thresholds(sites)
    promise = protection_of(tiny_job(protection="masking")).promise(sites)
    assert f"at least {limits.honest} sites that do not collude" in promise
    assert f"at most {limits.colluders} of {sites} do" in promise
    assert protection_of(tiny_job()).promise(sites) == "every site's update"
    encrypted = protection_of(tiny_job(protection='encryption"\nkey_holder = 2\nstrategy = "fedavg')).promise(sites)
    assert f"up to {limits.colluders} of {sites} sites other than the key holder" in encrypted
