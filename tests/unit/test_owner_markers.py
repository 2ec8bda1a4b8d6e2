"""The marks that catalogs leave in storage, made by several processes at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from timestore_local.driver import LocalDriver

from timestore_core.catalog.identity import Identity
from timestore_core.catalog.ownership import claim, owners
from timestore_core.storage import StoredFile


class Interrupted(LocalDriver):
    """Something happens to a mark between its being put and the look whether it is there."""

    def __init__(self, root: Path, epoch_after: int | None) -> None:
        super().__init__(root)
        self._after = epoch_after

    def stat(self, key: str) -> StoredFile | None:
        if key.endswith("/5"):
            self.delete(key)
            if self._after is not None:
                claim(LocalDriver(self._path("")), Identity("cat-1", self._after, None), None)  # type: ignore[arg-type]
        return super().stat(key)


def test_a_process_that_begins_a_later_epoch_meanwhile_is_no_failure(tmp_path: Path) -> None:
    begun = Identity("cat-1", 5, None)

    assert claim(Interrupted(tmp_path, epoch_after=6), begun, None) == begun  # type: ignore[arg-type]
    assert owners(LocalDriver(tmp_path)) == {"cat-1": 6}


def test_a_mark_that_is_gone_without_a_later_one_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not there after it was stored"):
        claim(Interrupted(tmp_path, epoch_after=None), Identity("cat-1", 5, None), None)  # type: ignore[arg-type]
