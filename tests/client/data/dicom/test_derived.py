"""A processed image as a new DICOM object."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from salus.client.data.dicom.derived import Derivation, derived
from salus.common.errors import UnreadableImage


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    """They became a file whose slope or intercept was ``nan``."""
    source = Dataset()
    source.Rows, source.Columns = 1, 2
    derivation = Derivation(sop_instance_uid="1.2.3", series_uid="1.2.4", description="median")
    with pytest.raises(UnreadableImage, match="no numbers"):
        derived(source, np.array([[value, 1.0]], np.float32), derivation)
