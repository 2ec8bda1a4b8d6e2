"""Lines of InfluxDB's protocol: what they mean, what is wrong with them, and that fast and careful reading agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timestore_core.dedupe import Dedupe, without_repeats
from timestore_core.errors import InvalidRequest
from timestore_core.ingest.line_protocol import body as lines_of_body
from timestore_core.ingest.line_protocol.body import Parsed, parse_lines
from timestore_core.ingest.line_protocol.names import slug_of
from timestore_core.ingest.line_protocol.points import BadLines
from timestore_core.ingest.line_protocol.precision import AUTO, Precision, precision_named
from timestore_core.ingest.line_protocol.scanner import LineError, scan
from timestore_core.ingest.line_protocol.series import LineTexts, Series, series_of
from timestore_core.model import Field, Schema
from timestore_core.settings import Settings

NOW_US = 1_700_000_000_000_000
SETTINGS = Settings()


def parsed(text: str | bytes, precision: Precision = 1) -> Parsed:
    body = text if isinstance(text, bytes) else text.encode()
    return parse_lines(body, precision, NOW_US, 100_000)


def rows_of(text: str | bytes, measurement: str = "m", schema: Schema | None = None) -> tuple[list[Any], BadLines]:
    """The measurement's rows, times as microseconds, and the bad lines."""
    found = parsed(text)
    body = text if isinstance(text, bytes) else text.encode()
    pieces = found.measurements.get(measurement, [])
    series = series_of(pieces, None, schema or Schema(()), SETTINGS, found.bad, LineTexts(body))
    return [] if series is None else as_rows(series), found.bad


def as_rows(series: Series) -> list[Any]:
    times = series.rows.column("timestamp").cast(pa.int64())
    return series.rows.set_column(0, "timestamp", times).to_pylist()


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("m f=1 1000", {"f": 1.0}),
        ("m f=1i 1000", {"f": 1}),
        ("m f=-9223372036854775808i 1000", {"f": -(2**63)}),
        ("m f=9223372036854775807u 1000", {"f": 2**63 - 1}),
        ("m f=-1.5e-3 1000", {"f": -0.0015}),
        ("m f=t,g=FALSE 1000", {"f": True, "g": False}),
        ('m f="a, b=c" 1000', {"f": "a, b=c"}),
        (r'm f="say \"x\" \\ \n" 1000', {"f": 'say "x" \\ \\n'}),
        ('m f="two\nlines" 1000', {"f": "two\nlines"}),
        ('m f="" 1000', {"f": ""}),
        ("m,t=a f=1 1000", {"t": "a", "f": 1.0}),
        (r"m,t=a\,b\ c\=d f=1 1000", {"t": "a,b c=d", "f": 1.0}),
        (r"m,t\ x=a\b f=1 1000", {"t x": "a\\b", "f": 1.0}),
        (r"m f\,g\ h\=i=1 1000", {"f,g h=i": 1.0}),
        ('m,t="a" f=1 1000', {"t": '"a"', "f": 1.0}),
        ("m,té=ü f=1 1000", {"té": "ü", "f": 1.0}),
        ("  m   f=1   1000  ", {"f": 1.0}),
        ("m f=1 1000\r", {"f": 1.0}),
        ("# a comment\n\nm f=1 1000\n\n", {"f": 1.0}),
    ],
)
def test_a_line_means_what_influxdb_says(line: str, row: dict[str, Any]) -> None:
    found, bad = rows_of(line)

    assert bad.named == []
    assert found == [{"timestamp": 1, **row}]


def test_escaped_measurements_and_lines_without_a_time() -> None:
    found, bad = rows_of(r"a\,b\ c=d f=1", r"a,b c=d")

    assert bad.count == 0
    assert found == [{"timestamp": NOW_US, "f": 1.0}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("m", "missing fields"),
        ("m ", "missing field key"),
        (",t=a f=1", "missing measurement"),
        ("m,t f=1", "missing value of the tag 't'"),
        ("m,t= f=1", "missing value of the tag 't'"),
        ("m,=a f=1", "missing tag key"),
        ("m,t=a,t=b f=1", "duplicate tag 't'"),
        ("m,t=a t=1", "'t' is both a tag and a field"),
        ("m f", "missing value of the field 'f'"),
        ("m f=", "missing value of the field 'f'"),
        ("m =1", "missing field key"),
        ("m f=1,", "missing field key"),
        ('m f="open 1', "the string of the field 'f' is not closed"),
        ('m f="x"y 1', "unexpected text after a string"),
        ("m f=x 1", "invalid value 'x' of the field 'f'"),
        ("m f=nan 1", "invalid value 'nan' of the field 'f'"),
        ("m f=1e400 1", "invalid value '1e400' of the field 'f'"),
        ("m f=0x10i 1", "invalid value '0x10i' of the field 'f'"),
        ("m f=9223372036854775808i 1", "invalid value '9223372036854775808i' of the field 'f'"),
        ("m f=9223372036854775808u 1", "invalid value '9223372036854775808u' of the field 'f'"),
        ("m f=-1u 1", "invalid value '-1u' of the field 'f'"),
        ("m f=5ii 1", "invalid value '5ii' of the field 'f'"),
        ("m f=1 noon", "invalid timestamp"),
        ("m f=1 1 2", "invalid timestamp"),
        ("m timestamp=1 1", "field 'timestamp' has the name of the column of times"),
        ("m F=1,f=1 1", "field 'f' differs from 'F' only in a way that is not seen; use that spelling"),
        ("m f\u200b=1 1", "field 'f\\u200b' holds a character that cannot be printed"),
        (b'm f="\xff" 1', "is not UTF-8"),
        (b"m,t=\xff f=1 1", "is not UTF-8"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_kept(line: str | bytes, reason: str) -> None:
    raw = line if isinstance(line, bytes) else line.encode()
    found, bad = rows_of(b"m good=1 1000\n" + raw + b"\nm good=2 2000\n")

    assert [(one.number, one.reason) for one in bad.named] == [(2, reason)]
    assert bad.named[0].text == raw.decode("utf-8", "replace")
    assert [row["timestamp"] for row in found] == [1, 2]


@pytest.mark.parametrize(
    ("name", "time", "microseconds"),
    [
        ("ns", 1_500_999, 1_500),
        ("n", -1, -1),
        ("us", 5, 5),
        ("u", 5, 5),
        ("µ", 5, 5),
        ("ms", 5, 5_000),
        ("s", 5, 5_000_000),
        ("m", 5, 300_000_000),
        ("h", 5, 18_000_000_000),
        ("auto", 1_700_000_000, NOW_US),
        ("auto", 1_700_000_000_000, NOW_US),
        ("auto", NOW_US, NOW_US),
        ("auto", NOW_US * 1000, NOW_US),
    ],
)
def test_every_precision(name: str, time: int, microseconds: int) -> None:
    found = parsed(f"m f=1 {time}\n", precision_named(name))

    assert found.measurements["m"][0].times_us.to_pylist() == [microseconds]


@pytest.mark.parametrize(("name", "time"), [("s", 10**12), ("h", -(10**12)), ("ns", 2**63), ("ms", 2**62)])
def test_a_time_out_of_range_is_a_bad_line(name: str, time: int) -> None:
    found = parsed(f"m f=1 {time}\nm f=2 0\n", precision_named(name))

    assert [(one.number, one.reason) for one in found.bad.named] == [(1, "the timestamp is out of range")]


def test_a_type_is_what_the_dataset_has_and_then_what_the_first_line_writes() -> None:
    known = Schema((Field("timestamp", "timestamp"), Field("d", "double"), Field("i", "integer")))
    text = "m d=1i,i=1i 1000\nm i=1.5 2000\nm x=1i 3000\nm x=1.5 4000\nm x=t 5000\nm x=2i 6000\n"

    found, bad = rows_of(text, schema=known)

    assert [one.number for one in bad.in_order()] == [2, 4, 5]
    assert [(row["d"], row["i"], row["x"]) for row in found] == [(1.0, 1, None), (None, None, 1), (None, None, 2)]


def test_a_series_has_one_row_for_each_time_and_later_values_win() -> None:
    text = (
        'm,t=a f=1,line=1 1000\nm,t=a g="x" 1001\nm,t=b f=5 1000\nm,t=a f=2 1000\nm f=9 1000\nm,t=a line_last=3 1000\n'
    )
    series = series_of(parsed(text).measurements["m"], None, Schema(()), SETTINGS, BadLines(), LineTexts(text.encode()))
    assert series is not None
    rows = without_repeats(series.rows, Dedupe(series.tags, "timestamp", "fields"))
    found = as_rows(Series(series.schema, series.tags, rows))

    by_tag = {row["t"]: row for row in found}
    assert len(found) == 3
    assert by_tag["a"] == {"timestamp": 1, "t": "a", "f": 2.0, "line": 1.0, "g": "x", "line_last": 3.0}
    assert (by_tag["b"]["f"], by_tag[None]["f"]) == (5.0, 9.0)


def test_a_name_cannot_be_a_tag_in_one_line_and_a_field_in_another() -> None:
    _, bad = rows_of('m,t=a f=1 1000\nm t="a" 2000\nm,f=a g=1 3000\n')

    assert [one.number for one in bad.in_order()] == [2, 3]


def test_one_bad_line_among_many_is_found_and_the_rest_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = []
    monkeypatch.setattr(lines_of_body, "scan", lambda line, *rest: scanned.append(line) or scan(line, *rest))
    lines = [f"m,t=a f={number},g={number}i {number}000" for number in range(10_000)]
    lines[777] = "m,t=a f=warm,g=1i 777000"
    lines[8000] = "m,t=a f=1,g=1i never"

    found, bad = rows_of("\n".join(lines))

    assert len(found) == 9_998
    assert [one.number for one in bad.in_order()] == [778, 8001]
    assert len(scanned) < 200


def test_a_body_of_several_slices_is_read_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_of_body, "_SLICE_BYTES", 100)
    lines = [f"m,t=a f={number},g={'warm' if number % 50 == 7 else 't'} {number}000" for number in range(200)]

    found, bad = rows_of("\n".join(lines))

    assert [row["f"] for row in found] == [number for number in range(200) if number % 50 != 7]
    assert [one.number for one in bad.in_order()] == [8, 58, 108, 158]


names = st.text(st.sampled_from('ab,= \\"té#'), min_size=1, max_size=4)
good_names = st.text(st.sampled_from("abc"), min_size=1, max_size=2)
values = st.sampled_from(
    [
        "1",
        "1.5",
        "-2e3",
        "1i",
        "-7i",
        "3u",
        "t",
        "False",
        '"x"',
        '"a b"',
        '"q\\"',
        '""',
        '"a,b=c d"',
        '"x"y',
        '"x""y"',
        'x"y"',
        '"',
        "nan",
        "0x1i",
        "1ii",
        "i",
        "",
        "5t",
        "+1",
        ".",
    ]
)
times = st.sampled_from(["", " 1", " -5", " 1000", " 9223372036854775807", " x", " 1 ", "  2", " +1", " 0x1"])


@st.composite
def written_lines(draw: st.DrawFn) -> str:
    """A line that is mostly well made, of few names, so that many have one shape."""
    name = names if draw(st.integers(0, 9)) == 0 else good_names
    tags = "".join(f",{draw(name)}={draw(name)}" for _ in range(draw(st.integers(0, 2))))
    fields = ",".join(f"{draw(name)}={draw(values)}" for _ in range(draw(st.integers(1, 2))))
    line = f"{draw(name)}{tags} {fields}{draw(times)}"
    return draw(st.sampled_from([line, line, line, line + "\r", " " + line, "", "#" + line, line.replace(" ", "", 1)]))


@given(lines=st.lists(written_lines(), max_size=30), repeat=st.integers(1, 40))
@settings(max_examples=300, deadline=None)
def test_reading_at_once_and_one_by_one_agree(lines: list[str], repeat: int) -> None:
    lines = [line for line in lines for _ in range(repeat)]
    # A string that is not closed may go on in later lines, which is another test's.
    lines = [line for line in lines if is_closed(line)]
    found = parsed("\n".join(lines))

    points, bad = {}, []
    for number, line in enumerate(lines, 1):
        text = line.lstrip(" \t").removesuffix("\r")
        if not text.strip() or text.startswith("#"):
            continue
        try:
            points[number] = scan(text, 1, NOW_US)
        except LineError as error:
            bad.append((number, str(error)))

    assert found.bad.count == len(bad)
    assert {(one.number, one.reason) for one in found.bad.named} <= set(bad)
    expected = {
        number: (point.measurement, point.tags, {name: shown(one) for name, one in point.fields.items()}, point.time_us)
        for number, point in points.items()
    }
    assert contents(found)[0] == expected


@given(
    pieces=st.lists(
        st.one_of(
            st.sampled_from(
                [
                    'm,t=a f="x y",g=1 5\n' * 30,
                    'm,t=b f="p,q=r",g=2\n',
                    'm f="a\nb" 7\n',
                    'm f="a\n,g="\nb=c"\n',
                    'm,t=" f="x\n',
                    'm f"="x\n"\n',
                ]
            ),
            st.text(st.sampled_from('mab,= "1t\\\n#é'), max_size=9),
        ),
        max_size=8,
    )
)
@settings(max_examples=300, deadline=None)
def test_strings_over_several_lines_are_the_same_beside_lines_that_are_read_at_once(pieces: list[str]) -> None:
    body = "".join(pieces)
    at_once = contents(parsed(body))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_of_body, "_odd_lines", lambda body, starts, ends: np.ones(len(starts), np.bool_))
        assert contents(parsed(body)) == at_once


def contents(found: Parsed) -> tuple[dict[int, Any], list[tuple[int, str]]]:
    """The good lines by their number, and the bad ones."""
    good = {
        number: (
            measurement,
            {name: column[row].as_py() for name, column in piece.tags.items() if column[row].is_valid},
            {name: (one.type, one.values[row].as_py()) for name, one in piece.fields.items()},
            piece.times_us[row].as_py(),
        )
        for measurement, pieces in found.measurements.items()
        for piece in pieces
        for row, number in enumerate(piece.lines.tolist())
    }
    return good, [(one.number, one.reason) for one in found.bad.in_order()]


def is_closed(line: str) -> bool:
    try:
        scan(line.lstrip(), 1, NOW_US)
    except LineError as error:
        return "not closed" not in str(error)
    return True


def shown(field: tuple[Any, Any]) -> tuple[Any, Any]:
    type_, value = field
    return type_, pa.scalar(value, pa.timestamp("us")).as_py() if type_ == "timestamp" else value


def test_a_slug_is_the_names_where_they_are_plain_and_has_their_hash_where_not() -> None:
    pairs = [
        ("telegraf", "cpu"),
        ("a", "b.c"),
        ("a.b", "c"),
        ("a b", "c"),
        ("a_b", "c"),
        ("a", "b c"),
        ("a", "b/c"),
        ("ä", "c"),
        ("a", ".."),
        ("a" * 200, "c"),
        ("a" * 200, "d"),
        ("a", "c-0123456789ab"),
    ]
    slugs = [slug_of(database, measurement, SETTINGS) for database, measurement in pairs]

    assert slugs[:2] == ["telegraf.cpu", "a.b.c"]
    assert len(set(slugs)) == len(pairs)
    assert all(slug.isascii() and len(slug) <= 140 and "/" not in slug for slug in slugs)


def test_a_slug_fits_a_narrow_pattern_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMESTORE_SLUG_PATTERN", "[a-z0-9-]+")
    assert slug_of("My DB", "cpu", Settings()).startswith("my-db-cpu-")

    monkeypatch.setenv("TIMESTORE_SLUG_PATTERN", "only")
    with pytest.raises(InvalidRequest, match="TIMESTORE_SLUG_PATTERN"):
        slug_of("telegraf", "cpu", Settings())


def test_auto_precision_tells_a_mixture_apart() -> None:
    found = parsed("m f=1 1700000000\nm f=2 1700000000000\n", AUTO)

    assert sorted(time for piece in found.measurements["m"] for time in piece.times_us.to_pylist()) == [NOW_US] * 2
