import pytest

from salus.client.data.dicom.text import INSTALL, installed
from salus.simulations.benchmarks import text


@pytest.mark.skipif(not installed(), reason=f"needs the text detector: {INSTALL}")
def test_every_planted_text_is_counted_and_misses_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "QUICK_IMAGES", 3)
    found = text.run(quick=True)
    assert found["images"] == 3
    assert round((1 - found["ours_recall"]) * 3) == len(found["misses"])
    monkeypatch.setattr(text.TextFinder, "find", lambda *_: ())
    nothing = text.run(quick=True)
    assert (nothing["ours_recall"], nothing["missed_entirely"], nothing["blanked_elsewhere"]) == (0.0, 3, 0.0)
    assert {miss["size"] for miss in nothing["misses"]} == set(text.SIZES[:3])
