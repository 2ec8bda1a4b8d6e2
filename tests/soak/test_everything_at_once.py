"""Writers, readers, maintenance, reversals and kills at once, held against a model (`make soak` runs it for long)."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service import Service
from tests.soak.scenario import run_scenario

log = logging.getLogger("soak")

SHORT_S = 25


@pytest.mark.slow
def test_no_row_is_lost_doubled_or_resurrected_whatever_happens_at_once(
    make_service: Callable[..., Service],
    postgres_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="soak")
    seed = int(os.environ.get("SOAK_SEED") or secrets.randbelow(10**9))
    seconds = float(os.environ.get("SOAK_SECONDS") or SHORT_S)
    log.info("SOAK_SEED=%s SOAK_SECONDS=%g, in %s", seed, seconds, tmp_path)

    outcome = run_scenario(make_service, postgres_url, tmp_path, seed, seconds)

    for name, count in sorted(outcome.figures.items()):
        log.info("%s: %s", name, f"{count:,}")
    assert outcome.problems == [], f"SOAK_SEED={seed}\n" + "\n".join(outcome.problems)
    assert outcome.missing == [], f"SOAK_SEED={seed}: these never happened"
