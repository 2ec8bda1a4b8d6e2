"""The pieces of one measurement as one table that fits its dataset: types settled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from timestore_core.dedupe import KEY, dedupe_problems
from timestore_core.ingest.line_protocol.points import TIME_COLUMN, BadLines, FieldColumn, Piece
from timestore_core.ingest.rows import ARROW_TYPES
from timestore_core.model import Dataset, Field, FieldType, Schema
from timestore_core.names import folded, name_problem
from timestore_core.settings import Settings

Role = Literal["tag", "field"]
# No tag and no field can have this name.
_LINE = "\0line"


@dataclass(frozen=True, slots=True)
class Column:
    """What a name is: a tag, or a field of some type."""

    name: str
    role: Role
    type: FieldType


@dataclass(frozen=True, slots=True)
class Series:
    """A measurement's rows in the order of their lines: `timestamp`, the tags, the fields."""

    schema: Schema
    tags: tuple[str, ...]
    rows: pa.Table


def series_of(
    pieces: Iterable[Piece], dataset: Dataset | None, schema: Schema, settings: Settings, bad: BadLines, body: LineTexts
) -> Series | None:
    """The rows of the pieces; lines that contradict the dataset's columns, or an earlier line, go to `bad`.

    None where no line is left.
    """
    columns = _Columns(dataset, schema, settings)
    kept = []
    for piece in sorted(pieces, key=lambda one: int(one.lines[0])):
        fitting = columns.fitted(piece, bad, body)
        if len(fitting.lines):
            kept.append(fitting)
    if not kept:
        return None
    rows, found = _together(kept, columns)
    tags = tuple(column.name for column in found if column.role == "tag")
    names = [column.name for column in found]
    made = Schema((Field(TIME_COLUMN, "timestamp"), *(Field(column.name, column.type) for column in found)))
    return Series(made, tags, rows.select([TIME_COLUMN, *names]))


class LineTexts:
    """The text of a line by its number from 1, for errors; cut when it is first asked for."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._lines: list[bytes] | None = None

    def __getitem__(self, number: int) -> bytes:
        if self._lines is None:
            self._lines = self._body.split(b"\n")
        return self._lines[number - 1]


class _Columns:
    """What every name is, as the dataset says and then the first line that has it."""

    def __init__(self, dataset: Dataset | None, schema: Schema, settings: Settings) -> None:
        self._settings = settings
        tags = dedupe_tags(dataset)
        self._is_ours = tags is not None
        self._known: dict[str, Column] = {}
        for field in schema.fields:
            role: Role = "tag" if field.name in (tags or ()) else "field"
            self._known[folded(field.name)] = Column(field.name, role, field.type)
        self._known.setdefault(folded(TIME_COLUMN), Column(TIME_COLUMN, "field", "timestamp"))

    def __getitem__(self, name: str) -> Column:
        return self._known[folded(name)]

    def fitted(self, piece: Piece, bad: BadLines, body: LineTexts) -> Piece:
        """The piece without the lines that do not fit, its integers as doubles where the column is one.

        Columns are known from then on, if a line is left that has them.
        """
        wrong = np.zeros(len(piece.lines), np.bool_)
        reasons: dict[int, str] = {}
        fresh: dict[str, Column] = {}
        tags, fields = dict(piece.tags), dict(piece.fields)
        for name, values in piece.tags.items():
            if not self._fits(Column(name, "tag", "string"), values, fresh, wrong, reasons):
                del tags[name]
        for name, one in piece.fields.items():
            if not self._fits(Column(name, "field", one.type), one.values, fresh, wrong, reasons):
                del fields[name]
                continue
            known = self._known.get(folded(name))
            if known is not None and (known.type, one.type) == ("double", "integer"):
                fields[name] = FieldColumn("double", one.values.cast(pa.float64(), safe=False))
        fitting = Piece(piece.lines, piece.times_us, tags, fields)
        if wrong.any():
            for row in np.flatnonzero(wrong).tolist():
                number = int(piece.lines[row])
                bad.add(number, reasons[row], body[number] if bad.has_room else b"")
            fitting = fitting.without(wrong)
        if len(fitting.lines):
            self._known |= fresh
        return fitting

    def _fits(
        self,
        column: Column,
        values: pa.Array,
        fresh: dict[str, Column],
        wrong: npt.NDArray[np.bool_],
        reasons: dict[int, str],
    ) -> bool:
        """Whether the column can be; else the lines that have it are wrong."""
        reason = self._reason(column, fresh)
        if reason is None:
            return True
        is_there = pc.is_valid(values).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(is_there & ~wrong).tolist():
            reasons[row] = reason
        wrong |= is_there
        return False

    def _reason(self, column: Column, fresh: dict[str, Column]) -> str | None:
        """Why the column cannot be; else, where it is not known, it is among the fresh ones."""
        shown = f"{column.role} {column.name[:80]!r}"
        known = self._known.get(folded(column.name)) or fresh.get(folded(column.name))
        if known is None:
            wrong = name_problem(column.name, self._settings.max_name_length)
            if wrong is None and len(self._known) + len(fresh) >= self._settings.ingest_max_columns:
                wrong = f"is one more than TIMESTORE_INGEST_MAX_COLUMNS ({self._settings.ingest_max_columns})"
            if wrong is not None:
                return f"{shown} {wrong}"
            fresh[folded(column.name)] = column
            return None
        if known.name != column.name:
            return f"{shown} differs from {known.name[:80]!r} only in a way that is not seen; use that spelling"
        if column.name == TIME_COLUMN:
            return f"{shown} has the name of the column of times"
        if self._is_ours and known.role != column.role:
            return f"{column.name[:80]!r} is a {known.role} in this measurement, not a {column.role}"
        if known.type != column.type and (known.type, column.type) != ("double", "integer"):
            return f"{shown} is of type {column.type} and the column is of type {known.type}"
        return None


def dedupe_tags(dataset: Dataset | None) -> tuple[str, ...] | None:
    """The tags of a dataset that keeps one row per series and time; none yet where there is no dataset.

    None for a dataset that does not.
    """
    if dataset is None:
        return ()
    rule: Any = dataset.metadata.get(KEY)
    if not isinstance(rule, Mapping) or dedupe_problems(rule) or rule.get("timeColumn", TIME_COLUMN) != TIME_COLUMN:
        return None
    return tuple(rule["columns"])


def _together(pieces: list[Piece], columns: _Columns) -> tuple[pa.Table, tuple[Column, ...]]:
    """All the lines in the order of the body, with NULLs where a line has no such tag or field."""
    names = dict.fromkeys(name for piece in pieces for name in piece.tags)
    names |= dict.fromkeys(name for piece in pieces for name in piece.fields)
    found = tuple(columns[name] for name in names)
    schema = pa.schema(
        [
            (_LINE, pa.int64()),
            (TIME_COLUMN, ARROW_TYPES["timestamp"]),
            *((column.name, ARROW_TYPES[column.type]) for column in found),
        ]
    )
    tables = [_table(piece, found, schema) for piece in pieces]
    if len(tables) == 1:
        return tables[0], found
    whole = pa.concat_tables(tables)
    ends = [(int(piece.lines[0]), int(piece.lines[-1])) for piece in pieces]
    in_order = all(before[1] < after[0] for before, after in pairwise(ends))
    return whole if in_order else whole.sort_by(_LINE), found


def _table(piece: Piece, columns: tuple[Column, ...], schema: pa.Schema) -> pa.Table:
    arrays = [pa.array(piece.lines), piece.times_us.cast(ARROW_TYPES["timestamp"])]
    for column in columns:
        if column.role == "tag" and column.name in piece.tags:
            arrays.append(piece.tags[column.name])
        elif column.role == "field" and column.name in piece.fields:
            arrays.append(piece.fields[column.name].values)
        elif column.name in piece.tags:
            arrays.append(piece.tags[column.name])
        else:
            arrays.append(pa.nulls(len(piece.lines), ARROW_TYPES[column.type]))
    return pa.Table.from_arrays(arrays, schema=schema)
