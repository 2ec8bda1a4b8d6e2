"""The forms in which an answer leaves: each says what is asked of the engine, and how its batches become bytes."""

from timestore_core.query.formats.columns import ARROW, PARQUET
from timestore_core.query.formats.form import AnswerForm, Shape
from timestore_core.query.formats.text import CSV, JSON, NDJSON

FORMS: tuple[AnswerForm, ...] = (JSON, NDJSON, CSV, ARROW, PARQUET)

__all__ = ["ARROW", "CSV", "FORMS", "JSON", "NDJSON", "PARQUET", "AnswerForm", "Shape"]
