import io
import json

import numpy as np
import pytest
from pydantic import ValidationError
from tests.client.data.dicom_files import make
from tests.client.data.incoming.test_importing import hostile
from tests.client.outgoing.series import series

from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.instances import Instance, check_one_series, header_of, instance_of, sources_of
from salus.common.errors import UnreadableImage


def test_a_header_keeps_what_a_derived_object_repeats_and_nothing_else() -> None:
    source = series(PatientComments="secret", OperatorsName="Smith", AccessionNumber="A7", StudyDate="20200131")[0]
    header = header_of(instance_of(source))
    assert (header.AccessionNumber, header.StudyDate, str(header.PatientName)) == ("A7", "20200131", "Doe^Jane")
    assert "PatientComments" not in header
    assert "OperatorsName" not in header
    assert "PixelData" not in header


def test_text_that_a_strict_writer_refuses_is_left_out() -> None:
    source = series(
        PatientBirthDate="1950", StudyTime="noon", StudyDate="2020-01-31", PatientName="A\x1b[2JB\\C", PatientSex="X"
    )[0]
    texts = instance_of(source).texts
    assert texts == {"PatientID": "P1", "PatientName": "A[2JB"}


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", ["", "1.2/../3", "x", "1" * 65])
def test_an_image_without_valid_identifiers_is_refused(keyword: str, value: str) -> None:
    source = make(np.zeros((2, 2), np.uint8))
    setattr(source, keyword, value)
    with pytest.raises(UnreadableImage) as caught:
        instance_of(source)
    assert caught.value.reason == "no-identifiers"


def test_the_model_from_the_child_is_strict() -> None:
    good = instance_of(series()[0]).model_dump(mode="json")
    assert Instance.model_validate_json(json.dumps(good))
    for name, value in (
        ("study_uid", "1.2/3"),
        ("rows", 0),
        ("rows", 70_000),
        ("spacing_mm", [0.0, 1.0]),
        ("extra", 1),
    ):
        with pytest.raises(ValidationError):
            Instance.model_validate_json(json.dumps({**good, name: value}))


def test_headers_are_read_in_the_child_and_hostile_files_cost_only_themselves() -> None:
    source = series()[0]
    buffer = io.BytesIO()
    source.save_as(buffer, enforce_file_format=True)
    with Isolated() as child:
        for data in hostile().values():
            with pytest.raises(UnreadableImage):
                child.header(data[: len(data) // 2])
        assert child.header(buffer.getvalue()) == instance_of(source)


@pytest.mark.parametrize(
    ("orientation", "plane"),
    [("axial", "axial"), ("oblique", "axial"), ("coronal", "coronal"), ("sagittal", "sagittal")],
)
def test_the_nearest_plane_is_named(orientation: str, plane: str) -> None:
    assert instance_of(series(orientation)[0]).plane == plane
    projection = make(np.zeros((2, 2), np.uint8))
    assert instance_of(projection).plane == ""


@pytest.mark.parametrize("value", ["A\\B", "X" * 65, "12\x1b34", "1\n2"])
@pytest.mark.parametrize("keyword", ["PatientID", "IssuerOfPatientID"])
def test_an_identifier_that_cannot_be_repeated_exactly_is_noted(keyword: str, value: str) -> None:
    assert instance_of(series(PatientID=" P 1", IssuerOfPatientID="WARD")[0]).exact
    assert instance_of(series(PatientID="")[0]).exact
    assert not instance_of(series(**{keyword: value})[0]).exact


def test_slices_of_two_patients_are_no_series() -> None:
    one, other = instance_of(series(PatientID="1")[0]), instance_of(series(PatientID="2")[1])
    check_one_series([one, one])
    with pytest.raises(UnreadableImage) as caught:
        check_one_series([one, other])
    assert caught.value.reason == "mixed-patients"


def test_the_same_identifiers_of_another_patient_are_other_sources() -> None:
    one = instance_of(series(PatientID="1")[0])
    names = {
        sources_of([one.model_copy(update=change)]) for change in ({}, {"study_uid": "1.9"}, {"series_uid": "1.9"})
    }
    names |= {sources_of([instance_of(series(PatientID="1", IssuerOfPatientID=who)[0])]) for who in ("A", "B", "")}
    assert len(names) == 5
