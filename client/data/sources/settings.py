"""What may be asked of readers: `ReaderSettings` and the keys that several of Salus' own readers share.

A reader's class has an attribute ``Settings``, a strict model with its keys; one without it has no keys. `SourceOptions` are
what an operator asks for, and `settings_for` are these options as the settings of one reader.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, get_origin

from pydantic import BaseModel, ConfigDict

from salus.common.errors import DataError
from salus.common.registry import own_settings
from salus.common.sections import registry_at
from salus.common.strict import Strict, validate

READERS = "salus.client.data.sources:SOURCES"
# Until readers owned their settings, the catalogue kept all of these for every data set; a reader ignored what it did not know.
ONCE_SHARED = frozenset((
    "labels", "label_column", "patient_column", "volumes", "channels", "columns", "missing", "positive_above", "masks", "images",
    "structures", "unlabelled", "include", "zero_pad_ids", "annotations", "numbers", "row", "text", "series",
    "sex_column", "age_column",
))  # fmt: skip
MISSING = ("", "?", "NA", "NaN", "nan")


class SourceOptions(BaseModel):
    """What an operator asks of a reader, by key; keys that are not given keep the reader's defaults.

    >>> SourceOptions(volumes=True).given
    {'volumes': True}
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    @classmethod
    def asked(cls, **values: Any) -> "SourceOptions":
        """Return the options of a command line: an empty text, an empty list, False and None ask for nothing."""
        return cls(
            **{key: value for key, value in values.items() if value not in ("", (), None) and value is not False}
        )

    @property
    def given(self) -> dict[str, Any]:
        """The options by key."""
        return dict(self.model_extra or {})

    def changed(self, **values: Any) -> "SourceOptions":
        """Return these options with others in their place."""
        return SourceOptions(**{**self.given, **values})


class ReaderSettings(Strict):
    """Base of the settings of a reader; kept in the catalogue, so that data are read the same way later.

    The keys ``labels``, ``masks`` and ``annotations`` name a file and folders that may lie outside of the data's folder.
    """

    @classmethod
    def elsewhere(cls, key: str) -> str:
        """Return the kinds of data that know a key."""
        registry = registry_at(READERS)
        found = [name for name in registry.names() if key in settings_class(registry.get(name)).model_fields]
        return " or ".join(f"--kind {name}" for name in found)


class PersonSettings(ReaderSettings):
    """Which column says what about the patient.

    Args:
        label_column: the column of labels.
        patient_column: the column of patients; empty for the usual names.
        sex_column, age_column: columns with the patient's sex and age, for evaluation by subgroup.
        unlabelled: read data without labels, for a prediction; no label file is looked for.
        missing: the markers of missing values.
        event_column: the column that says whether the event happened, for labels that are times; see `outcomes`.
        positive_above: turn a number into the label ``1`` above this number and ``0`` otherwise.
    """

    label_column: str = "label"  # the name in the label files that `salus dataset labels` writes
    patient_column: str = ""  # the usual names are looked for
    sex_column: str = ""  # subgroups are opt-in
    age_column: str = ""  # subgroups are opt-in
    unlabelled: bool = False  # training needs labels
    missing: tuple[str, ...] = MISSING  # as UCI's tables, R and pandas write them
    event_column: str = ""  # labels are taken as they are
    positive_above: float | None = None  # labels are taken as they are


class LabelSettings(PersonSettings):
    """Settings of a reader whose images are described by a label file.

    Args:
        labels: the label file, a CSV, relative to the root or absolute.
        numbers: columns of the label file with numbers to predict.
        row: columns of the label file that a model gets beside the image.
        text: a column of the label file with a text.
        series: a column of the label file that names a CSV file with a time series for each image, relative to the root.
        order_column: a column of the label file with dates or numbers by which a patient's images are ordered; only their
            ranks are kept.
        zero_pad_ids: give patient identifiers of the label file that are digits leading zeros up to this length; 0 for none.
    """

    labels: str = ""  # labels.csv in the data's folder, where there is one
    numbers: tuple[str, ...] = ()  # a label only
    row: tuple[str, ...] = ()  # the image only
    text: str = ""  # no text
    series: str = ""  # no time series
    order_column: str = ""  # as the rows of the label file, or the names of the files
    zero_pad_ids: int = 0  # identifiers are taken as they are

    @property
    def cells(self) -> tuple[str, ...]:
        """The columns of the label file that hold annotations."""
        return (*self.numbers, *self.row, *filter(None, (self.text, self.series)))


class StructureSettings(LabelSettings):
    """Settings of a reader whose annotations are of named structures.

    Args:
        structures: names of the numbers 1, 2 ... of a mask; or, where the data name more structures, those to use.
    """

    structures: tuple[str, ...] = ()  # all that the data name


class DicomSettings(StructureSettings):
    """Settings of DICOM folders.

    Args:
        volumes: take each DICOM series as 3-D samples, one for each volume in it.
        channels: with volumes, what becomes channels of one sample: a dimension such as ``echo`` (see `dicom.dimensions`).
        include: kinds of DICOM objects that are taken although they are no usual training pictures, see `dicom.kinds`.
        frames: of a clip: empty to take it as it is, or ``first`` or ``each`` for images of its first or of every frame.
        suv: take PET in standardised uptake values by body weight; an image without what they need is refused.
        masks: a folder of segmentations and structure sets, relative to the root.
    """

    volumes: bool = False  # slices are the commoner input
    channels: str = ""  # one sample for each volume
    include: tuple[str, ...] = ()  # training pictures only
    frames: str = ""  # a clip is one sample
    suv: bool = False  # in the units of the file
    masks: str = ""  # they are found beside their images


class NiftiSettings(StructureSettings):
    """Settings of NIfTI folders.

    Args:
        masks: a folder of masks with the names of the images, relative to the root.
        images: a pattern of the names of image files, such as ``*_T1w.nii.gz``; empty for all.
        volumes: take each volume of a file of four dimensions as a sample.
        channels: for files of four dimensions, what becomes channels of one sample: ``time`` or ``channel``.
    """

    masks: str = ""  # the usual folders are found
    images: str = ""  # all of them
    volumes: bool = False  # the operator says what the volumes of a file are
    channels: str = ""  # as the header says


class ImageSettings(StructureSettings):
    """Settings of folders of pictures.

    Args:
        annotations: a folder of VOC's XML files or a COCO file, relative to the root.
    """

    annotations: str = ""  # the usual names are found


class TableSettings(PersonSettings):
    """Settings of tables.

    Args:
        columns: the columns, in order; needed where the file has no header.
    """

    columns: tuple[str, ...] = ()  # from the header


class ArraySettings(ReaderSettings):
    """Settings of MedMNIST's arrays.

    Args:
        unlabelled: for a prediction; the labels, which are in the file, are not used.
    """

    unlabelled: bool = False  # training needs labels


def settings_class(reader: object) -> type[Strict]:
    """Return the settings of a reader's class; a model without keys if it has none."""
    return own_settings(reader) or ReaderSettings


def settings_for(kind: str, options: SourceOptions) -> Strict:
    """Return options as the settings of the reader of this kind.

    Raises:
        DataError: an unknown kind, an option that its reader does not know, which names the nearest, or a wrong value.
    """
    reader = registry_at(READERS).get(kind, error=DataError)
    return validate(
        settings_class(reader),
        options.given,
        error=DataError,
        what=f"list of options for --kind {kind}",
        remedy="Correct the options.",
    )


def markers(text: str) -> tuple[str, ...]:
    """Return markers of missing values from a list separated by commas, an empty cell included; none for an empty list."""
    return ("", *(code.strip() for code in text.split(","))) if text else ()


def options_in(kind: str, pairs: Iterable[str]) -> dict[str, Any]:
    """Return options that were written as ``key=value``; a value that is not text is JSON, or a list separated by commas.

    Raises:
        DataError: text of another form, or an unknown kind.
    """
    fields = settings_class(registry_at(READERS).get(kind, error=DataError)).model_fields
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise DataError(
                f"Expected --option key=value, got {pair!r}.", remedy="Write the value after an equals sign."
            )
        annotation = fields[key].annotation if key in fields else str
        if get_origin(annotation) is tuple:
            found[key] = [word.strip() for word in text.split(",") if word.strip()]
        else:
            found[key] = text if annotation is str else _plain(text)
    return found


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # refused by its name where it is no text


def knows(kind: str, key: str) -> bool:
    """Return whether the reader of a kind has an option; raises DataError for an unknown kind."""
    return key in settings_class(registry_at(READERS).get(kind, error=DataError)).model_fields


def stored_settings(kind: str, stored: Mapping[str, Any]) -> SourceOptions:
    """Return the options that a catalogue has stored; what its reader never used, see `ONCE_SHARED`, is left out."""
    return SourceOptions(**{key: value for key, value in stored.items() if key not in ONCE_SHARED or knows(kind, key)})
