import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salus.common.people import OLDEST_YEARS, SEXES, age_on, age_years_of, sex_of


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("012M", 1), ("011M", 0), ("365D", 0), ("366D", 1), ("052W", 0), ("053W", 1), ("089Y", 89), ("090Y", 90),
        ("117Y", 90), (" 45 ", 45), (45.9, 45), ("0", 0),
        ("", None), (None, None), ("-1", None), ("nan", None), ("inf", None), ("131", None), ("45 years", None),
        ("٤٥Y", None),
    ],
)  # fmt: skip
def test_ages_in_every_form(text: object, years: int | None) -> None:
    assert age_years_of(text) == years


@given(st.text(max_size=12))
def test_nothing_but_the_known_values_comes_out_of_any_text(text: str) -> None:
    years = age_years_of(text)
    assert years is None or 0 <= years <= OLDEST_YEARS
    assert sex_of(text) in ("", *SEXES)
    assert age_on(text, "20200101") is None or len(text.strip()) == 8


@given(st.dates(datetime.date(1900, 1, 1), datetime.date(1950, 12, 31)), st.integers(0, 120), st.integers(0, 364))
def test_an_age_is_the_number_of_birthdays_passed(born: datetime.date, years: int, days: int) -> None:
    if (born.month, born.day) == (2, 29):
        born = born.replace(day=28)
    then = born.replace(year=born.year + years) + datetime.timedelta(days=min(days, 300))
    assert age_on(f"{born:%Y%m%d}", f"{then:%Y%m%d}") == min(years, OLDEST_YEARS)
    assert age_on(f"{then:%Y%m%d}", f"{born:%Y%m%d}") in (None, 0)
