"""Query strings of InfluxDB's routes: the last of several values counts, unknown names mean nothing."""

from __future__ import annotations

from urllib.parse import parse_qsl

from timestore_core.errors import InvalidRequest

_MAX_PARAMETERS = 100


def parameters_of(text: str) -> dict[str, str]:
    """The parameters by their names. Raises InvalidRequest for what is not UTF-8, or too many."""
    try:
        return dict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS))
    except (ValueError, UnicodeDecodeError):
        raise InvalidRequest.at("query", f"is not UTF-8, or has more than {_MAX_PARAMETERS} parameters") from None
