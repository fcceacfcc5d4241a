"""Maps over images: colours, the scale, the edge of what is annotated, and the slice of a volume that is shown."""

import base64
import io

import numpy as np
from PIL import Image

from salus.client.data.records import Sample
from salus.client.explaining.cases import MapResult, kept, view_of
from salus.client.explaining.pictures import GAP, SCALE, SIDE, View, peak_of, strongest
from salus.client.explaining.sanity import Curves


def decoded(url: str) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")).astype(int)


def test_what_speaks_for_the_answer_is_orange_and_what_speaks_against_it_blue() -> None:
    found = np.zeros((8, 8), np.float32)
    found[:4, :4], found[4:, 4:] = 1.0, -1.0
    picture = decoded(View(np.full((1, 8, 8), 0.5, np.float32), None).overlay(found))
    assert picture.shape == (SIDE, SIDE + GAP + SCALE, 3)
    red, blue, none = picture[40, 40], picture[250, 250], picture[40, 250]
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert abs(none[0] - none[2]) < 10
    top, bottom = picture[3, -4], picture[-4, -4]
    assert top[0] > top[2] + 50
    assert bottom[2] > bottom[0] + 50


def test_a_map_without_any_number_colours_nothing() -> None:
    view = View(np.full((1, 8, 8), 0.5, np.float32), None)
    picture = decoded(view.overlay(np.zeros((8, 8), np.float32)))[:, :SIDE]
    assert np.abs(picture - decoded(view.plain())).max() < 12
    assert strongest(np.zeros((0,), np.float32)) == 0.0


def test_pixels_keep_their_proportions_and_the_region_its_edge() -> None:
    region = np.zeros((4, 8), bool)
    region[1:3, 2:6] = True
    view = View(np.zeros((1, 4, 8), np.float32), region, (2.0, 1.0))
    picture = decoded(view.annotated())
    assert picture.shape == (SIDE, SIDE, 3)
    edge = (picture[..., 1] > 180) & (picture[..., 0] < 100)
    assert edge.any()
    assert not edge[SIDE // 2, SIDE // 2]


def test_of_a_volume_the_slice_with_most_of_the_region_is_shown() -> None:
    region = np.zeros((5, 4, 4), bool)
    region[1, 0, 0] = region[3, :2] = True
    volume = Sample(np.random.default_rng(0).random((1, 5, 4, 4)).astype(np.float32))
    view = view_of(volume, region)
    assert view is not None
    assert view.place == 3
    middle = view_of(volume, None)
    assert middle is not None
    assert middle.place == 2
    assert view_of(Sample(np.zeros(2, np.float32), columns=("a", "b")), None) is None


def test_of_a_volume_only_the_slice_that_is_shown_is_kept() -> None:
    volume = Sample(np.random.default_rng(0).random((1, 5, 4, 4)).astype(np.float32))
    found = np.zeros((5, 4, 4), np.float32)
    found[1, 2, 3], found[4] = -2.0, 1.0
    region = np.zeros((5, 4, 4), bool)
    region[4] = True
    curves = Curves(0.0, 1.0, 0.0, 1.0, (), ())
    whole = MapResult(found, strongest(found), peak_of(found), curves, 0.0, None, None, None)
    view = view_of(volume, region, {"m": whole})
    assert view is not None
    assert view.place == 4
    one = kept(whole, view)
    assert (one.strongest, one.peak) == (2.0, 1)
    assert one.found.tolist() == found[4].tolist()
    for part in (one.found, view.image, view.region):
        assert part is not None
        assert part.base is None  # a part of a volume would keep the whole of it in memory
    assert kept(whole, None) is whole
