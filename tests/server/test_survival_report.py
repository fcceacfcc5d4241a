"""The picture of survival curves: what it shows can be read from it alone."""

import base64
from xml.etree import ElementTree

from salus.server.survival_report import survival_sections

RESULT = {
    "kind": "kaplan-meier",
    "times": [90.0, 180.0],
    "curves": {
        name: {"patients": 10, "events": 3, "survival": [0.9, 0.7], "low": [0.7, 0.5], "high": [1.0, 0.9]}
        for name in ("stage = 1", "stage < 2 & <b>")
    },
}


def test_the_picture_has_a_legend_and_both_scales() -> None:
    url = survival_sections(RESULT)[0].pictures[0][1]
    picture = ElementTree.fromstring(base64.b64decode(url.partition(",")[2]))  # noqa: S314 - our own picture
    texts = [element.text for element in picture.iter() if element.tag.endswith("text")]
    assert {"stage = 1", "stage < 2 & <b>", "0", "0.5", "1", "90", "180", "time, in the unit of the data"} <= set(texts)
    assert max(float(element.get("y", 0)) for element in picture.iter()) < float(picture.get("height", 0))
