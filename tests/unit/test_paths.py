from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from timestore_core.partitions.paths import fold_segment, partition_key_path


@given(text=st.text())
def test_any_text_becomes_a_safe_segment(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9._-]{1,80}", fold_segment(text))
    assert fold_segment(text) not in (".", "..")


@given(slug=st.text(), key=st.dictionaries(st.text(), st.text(), max_size=16))
def test_the_longest_path_fits_a_file_system(slug: str, key: dict[str, str]) -> None:
    path = partition_key_path(slug, key, "part-00000000-0000-0000-0000-000000000000", "duckdb")

    assert len(path) < 3000
    assert path.count("/") == len(key) + 1


def test_keys_stand_in_order_and_folded() -> None:
    path = partition_key_path("Obs", {"window": "2024-01-01T00", "Site": "a/b c"}, "part-1", "duckdb")

    assert path == "obs/site=a_b_c/window=2024-01-01t00/part-1.duckdb"
