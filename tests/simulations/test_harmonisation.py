import pytest

from salus.simulations.benchmarks.harmonisation import run


@pytest.mark.slow
def test_harmonisation_mends_what_vendors_break() -> None:
    found = run(quick=True)
    assert found["ours_auc_images_before"][0] < 0.8  # else the shift would be none
    assert found["ours_auc_images_nyul"][0] > found["ours_auc_images_before"][0] + 0.1
    assert found["ours_auc_features_combat"][0] > found["ours_auc_features_before"][0] + 0.1
