"""Cells become strings, numbers, times and digests."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_audit_producers.cells import digests, number_in, numbers, strings, time_us, times
from rlhf_audit_producers.mapping import Mapping

NULLS = Mapping().nulls
MOMENT_US = 1_723_509_980_026_123


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_723_509_980, 1_723_509_980_000_000),
        (1_723_509_980.026123, MOMENT_US),
        ("1723509980.026123", MOMENT_US),
        (1_723_509_980_026, 1_723_509_980_026_000),
        ("1723509980026", 1_723_509_980_026_000),
        (MOMENT_US, MOMENT_US),
        (MOMENT_US * 1000 + 7, MOMENT_US),
        ("1.723509980026e12", 1_723_509_980_026_000),
        ("2024-08-13T00:46:20.026123Z", MOMENT_US),
        ("2024-08-13 02:46:20.026123+02:00", MOMENT_US),
        ("2024-08-13 00:46:20.026123 UTC", MOMENT_US),
        (0, 0),
        (-5, -5_000_000),
    ],
)
def test_times_are_known_by_their_size_or_as_iso_8601(value: Any, expected: int) -> None:
    assert time_us(value) == (expected, False)


@pytest.mark.parametrize("value", ["2024-08-13T00:46:20", "2024-08-13 00:46:20", "20240813T004620"])
def test_a_time_without_zone_is_utc_and_counted(value: str) -> None:
    assert time_us(value) == (MOMENT_US // 1_000_000 * 1_000_000, True)
    assert times([value, value, None], NULLS, {}, "judged_at")[1] == 2


def test_eight_digits_in_a_string_are_a_date() -> None:
    assert time_us("20240813") == (1_723_507_200_000_000, True)


@pytest.mark.parametrize("value", ["yesterday", "2024-13-01", 10**21, "1e400", "12:30", True, {}, [1], "99999-01-01"])
def test_what_is_no_time_spoils_its_row_only(value: Any) -> None:
    bad: dict[int, str] = {}
    found, _ = times([1_723_509_980, value], NULLS, bad, "judged_at")
    assert found == [1_723_509_980_000_000, None]
    assert list(bad) == [1]
    assert str(value) not in bad[1]


@given(
    moment=st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2100, 1, 1)),  # noqa: DTZ001 - zone added
    minutes=st.integers(-14 * 60, 14 * 60),
)
def test_iso_times_in_any_zone_are_exact(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert time_us(aware.isoformat()) == (expected, False)


@given(milliseconds=st.lists(st.integers(0, 10**14 - 1), min_size=1, max_size=20))
def test_whole_columns_of_times_agree_with_single_ones(milliseconds: list[int]) -> None:
    found, _ = times(milliseconds, NULLS, {}, "judged_at")
    assert found == [time_us(value)[0] for value in milliseconds]


@pytest.mark.parametrize("text", ["NULL", "null", "None", "NaN", "", "N/A"])
def test_words_for_nothing_are_missing_in_every_typed_column(text: str) -> None:
    assert strings([text, "r1"], NULLS, {}, "annotator") == [None, "r1"]
    assert numbers([text, "2"], NULLS) == ([None, 2.0], {})
    assert times([text], NULLS, {}, "judged_at") == ([None], 0)


def test_strings_keep_what_the_file_says_and_refuse_what_they_cannot_keep() -> None:
    bad: dict[int, str] = {}
    values = ["x ", 17, 0.5, True, None, 2.0**60, {"a": 1}, [1]]
    assert strings(values, NULLS, bad, "item")[:5] == ["x ", "17", "0.5", "true", None]
    assert sorted(bad) == [5, 6, 7]


@pytest.mark.parametrize("text", ["1_0", "inf", "nan", "1,5", "0x10", "good", "1e999", " ", "٣"])
def test_strings_that_are_no_plain_finite_number_are_none(text: str) -> None:
    assert number_in(text) is None


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_in_strings_are_those_that_were_written(value: float) -> None:
    assert number_in(repr(value)) == value


def test_values_of_a_score_that_are_no_number_are_handed_back() -> None:
    assert numbers([1, "2.5", "good", None, True, [1]], NULLS) == (
        [1, 2.5, None, None, 1.0, None],
        {2: "good", 5: [1]},
    )


@given(values=st.lists(st.one_of(st.none(), st.text(max_size=8)), max_size=12))
def test_digests_are_sha256_of_utf8_and_texts_only_on_demand(values: list[str | None]) -> None:
    values = [value for value in values if value is None or value.isprintable()]
    expected = [None if value is None else hashlib.sha256(value.encode()).digest() for value in values]
    assert digests(values, empty_is_missing=False, with_text=False) == (expected, None)
    assert digests(values, empty_is_missing=False, with_text=True) == (expected, values)


def test_an_empty_cell_of_a_table_is_no_text_but_an_empty_string_in_json_is_one() -> None:
    assert digests(["", "a"], empty_is_missing=True, with_text=True)[0][0] is None
    assert digests(["", "a"], empty_is_missing=False, with_text=True)[0][0] == hashlib.sha256().digest()


def test_chat_messages_are_digested_as_json_with_sorted_keys() -> None:
    one = [{"role": "user", "content": "hé"}]
    other = [{"content": "hé", "role": "user"}]
    expected = hashlib.sha256('[{"content":"hé","role":"user"}]'.encode()).digest()
    assert digests([one, other], empty_is_missing=False, with_text=False)[0] == [expected, expected]
