"""Sex and age of a patient as they may be kept: one of three letters, and whole years up to 90.

Ages of 90 and more are one value, as in the Safe Harbor rule of HIPAA (45 CFR 164.514(b)(2)(i)(C)): so few people are older
that a higher age may identify one of them.
"""

import datetime
import math
import re
from typing import Literal

Sex = Literal["", "F", "M", "O"]
SEXES: tuple[Sex, ...] = ("F", "M", "O")  # as in DICOM: female, male, other
OLDEST_YEARS = 90  # this age and above
IN_A_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}
WORDS = {"FEMALE": "F", "WOMAN": "F", "MALE": "M", "MAN": "M", "OTHER": "O"}
LONGEST_LIFE_YEARS = 130


def sex_of(text: object) -> Sex:
    """Return ``F``, ``M`` or ``O``, or an empty string for anything else: a code such as 1 has no meaning that all share.

    >>> sex_of("female"), sex_of(" m"), sex_of("1")
    ('F', 'M', '')
    """
    word = str(text or "").strip().upper()
    word = WORDS.get(word, word)
    return next((sex for sex in SEXES if sex == word), "")


def age_years_of(text: object) -> int | None:
    """Return an age in whole years, at most 90, from DICOM's form or a number of years; None if it is neither.

    >>> age_years_of("045Y"), age_years_of("018M"), age_years_of("61.5"), age_years_of("104Y"), age_years_of("old")
    (45, 1, 61, 90, None)
    """
    word = str("" if text is None else text).strip().upper()
    found = re.fullmatch(r"(\d{1,3})([DWMY])", word, re.ASCII)
    if found is not None:
        years = int(found[1]) / IN_A_YEAR[found[2]]
    else:
        try:
            years = float(word)
        except ValueError:
            return None
    if not (math.isfinite(years) and 0 <= years <= LONGEST_LIFE_YEARS):
        return None
    return min(math.floor(years), OLDEST_YEARS)


def age_on(birth: object, day: object) -> int | None:
    """Return the age in whole years, at most 90, on a day; both are dates as ``YYYYMMDD``. None if one of them is not.

    >>> age_on("19800229", "20210228"), age_on("19800229", "20210301"), age_on("", "20210301")
    (40, 41, None)
    """
    texts = [str(text or "").strip() for text in (birth, day)]
    if not all(re.fullmatch(r"\d{8}", text, re.ASCII) for text in texts):
        return None
    try:
        born, then = (datetime.date(int(text[:4]), int(text[4:6]), int(text[6:])) for text in texts)
    except ValueError:
        return None
    return age_years_of(then.year - born.year - ((then.month, then.day) < (born.month, born.day)))
