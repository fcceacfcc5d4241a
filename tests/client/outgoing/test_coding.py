import pytest
from pydantic import ValidationError
from pydicom.sr.codedict import codes

from salus.client.outgoing import coding, dicom_sr, highdicom_extra
from salus.client.outgoing.coding import PRIVATE, TISSUE, coded, dicom_text
from salus.common.codes import ClassCode, Code


def test_the_jobs_code_comes_first_and_brings_dicoms_category() -> None:
    given = (
        ClassCode(of="tumour", type="SCT:4147007:Mass"),
        ClassCode(of="liver", type="99HOSP:L1:Our liver", category="SCT:91723000:Anatomical structure"),
        ClassCode(of="spot", type="99HOSP:S1:Spot"),
    )
    tumour, liver, spot = coded(("tumour", "liver", "spot"), given)
    assert (tumour.type.value, tumour.category.meaning) == ("4147007", "Morphologically abnormal structure")
    assert (liver.type.scheme, liver.category.value) == ("99HOSP", "91723000")
    assert spot.category == TISSUE


def test_known_structures_have_dicoms_codes_and_others_a_private_one() -> None:
    liver, tumour, unknown = coded(("Liver", "tumour", "zone a"))
    assert (liver.type.scheme, liver.type.value) == ("SCT", codes.SCT.Liver.value)
    assert (tumour.type.value, tumour.category.value) == (codes.SCT.Neoplasm.value, "49755003")
    assert (unknown.type, unknown.category) == (Code(scheme=PRIVATE, value="ZONE_A", meaning="zone a"), TISSUE)


def test_different_names_never_share_a_private_code() -> None:
    names = ("zone a", "zone_a", "Zone a", "ZONE A", "zone  a", "zone", "зона", "x" * 30, "x" * 31, "_", " ")
    found = coded(names)
    assert len({one.type.value for one in found}) == len(names)
    assert all(len(one.type.value) <= 16 and len(one.type.meaning) <= 64 for one in found)


def test_a_code_that_is_none_is_refused_with_a_sample() -> None:
    for text in ("Liver", "SCT:10200004", "sct:1:Liver", "SCT:1 2:Liver", "SCT:1:", "SCT:1:a\\b", "SCT:1:a\nb"):
        with pytest.raises(ValidationError, match="SCT:10200004:Liver"):
            ClassCode(of="liver", type=text)


def test_the_constants_are_the_standards() -> None:
    ours = [
        value
        for module in (coding, dicom_sr, highdicom_extra)
        for value in vars(module).values()
        if isinstance(value, Code)
    ]
    ours += coding.CATEGORIES.values()
    known = {
        (code.scheme_designator, code.value): code.meaning.lower()
        for scheme in (codes.SCT, codes.DCM, codes.UCUM)
        for code in (getattr(scheme, name) for name in scheme.dir())
    }
    known |= {
        ("SCT", "363679005"): "imaging",
        ("UCUM", "ml"): "ml",
    }  # by meaning: SNOMED's "Imaging"; UCUM's millilitre
    for code in ours:
        assert known[(code.scheme, code.value)].replace("-", " ").startswith(code.meaning.lower())


@pytest.mark.parametrize("meaning", ["Liver\n", "Li\nver", "Li\\ver", "\x1b[31mLiver", "Li\x9bver"])
def test_a_meaning_with_control_characters_is_refused(meaning: str) -> None:
    with pytest.raises(ValidationError):
        ClassCode(of="liver", type=f"SCT:10200004:{meaning}")


@pytest.mark.parametrize(
    ("name", "text"),
    [("left\\right", "left right"), ("a\x00\nb", "a  b"), ("\x1b[31m", "[31m"), ("\\", ""), ("肝" * 70, "肝" * 64)],
)
def test_a_name_becomes_one_value_of_a_long_string(name: str, text: str) -> None:
    assert dicom_text(name) == text
