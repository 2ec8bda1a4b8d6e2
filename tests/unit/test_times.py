from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timestore_core.times import format_time, from_us, parse_time_us, to_us

moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))
offsets = st.integers(-23 * 60, 23 * 60)


@given(moment=moments, minutes=offsets)
def test_an_iso_time_in_any_zone_is_read_to_the_microsecond(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))

    assert from_us(parse_time_us(aware.isoformat())) == aware


@given(moment=moments)
def test_a_written_time_reads_back_as_itself(moment: datetime) -> None:
    aware = moment.replace(tzinfo=UTC)

    assert parse_time_us(format_time(aware)) == to_us(aware)


def test_digits_are_written_only_when_the_value_has_them() -> None:
    assert format_time(datetime(2024, 1, 1, tzinfo=UTC)) == "2024-01-01T00:00:00.000Z"
    assert format_time(datetime(2024, 1, 1, microsecond=1, tzinfo=UTC)) == "2024-01-01T00:00:00.000001Z"


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2024-01-01", "2024-01-01T00:00:00.000Z"),
        ("2024-01-01 10:30", "2024-01-01T10:30:00.000Z"),
        ("2024-01-01T10:30:00", "2024-01-01T10:30:00.000Z"),
        ("2024-01-01T10:30:00.5+02", "2024-01-01T08:30:00.500Z"),
        ("2024-01-01T10:30:00.123456000Z", "2024-01-01T10:30:00.123456Z"),
    ],
)
def test_forms_that_producers_send_are_understood(text: str, means: str) -> None:
    assert format_time(from_us(parse_time_us(text))) == means


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "infinity",
        "-infinity",
        "2024",
        "2024-13-01",
        "2024-02-30",
        "2024-01-01T24:00:00Z",
        "2024-01-01T00:00:60Z",
        "0000-01-01",
        "10000-01-01",
        "2024-01-01T00:00:00.1234567Z",
        "2024-01-01T00:00.5Z",
        "2024-01-01T00:00:00+99:99",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "２０２４-01-01",
    ],
)
def test_what_is_no_time_or_would_be_rounded_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is"):
        parse_time_us(text)
