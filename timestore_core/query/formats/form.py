"""What a form of answers is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from timestore_core.model import ResultField
from timestore_core.query.render_sql import Render


@dataclass(frozen=True, slots=True)
class Shape:
    """What the bytes say beside the rows: the columns, and for JSON what kind of question it was, and `beside`.

    A form that has to be whole before it is sent may be kept in `spool_dir`, and has at most `max_bytes`.
    """

    fields: Sequence[ResultField]
    mode: str
    spool_dir: Path
    max_bytes: int
    beside: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """One form. `encode` makes bytes of the batches that the engine gives for `render`.

    A form is sent while the query runs, as a stream without a limit on its size, or it is whole before the first byte
    leaves, in memory or on disk. One that is not compressible is compressed in itself.
    """

    name: str
    media_type: str
    content_type: str
    render: Render
    encode: Callable[[Iterator[pa.RecordBatch], Shape], Iterator[bytes]]
    delivery: Literal["stream", "memory", "disk"]
    is_compressible: bool = True
    other_names: tuple[str, ...] = ()
