"""Everything that a service answered and logged, searched for secrets."""

from __future__ import annotations

import httpx

from tests.service import Service

# In every secret of these tests, and in nothing else.
MARK = "hunter"


class Recorder:
    """Listens to the service's client."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._answers: list[str] = []
        service.client.event_hooks["response"].append(self._note)

    def check(self) -> None:
        """Fails where a secret was told."""
        lines = [*self._answers, *self._service.log.read_text().splitlines()]
        told = [f"…{line[max(0, line.index(MARK) - 400) : line.index(MARK) + 40]}" for line in lines if MARK in line]
        assert told == [], told[:3]

    @property
    def count(self) -> int:
        return len(self._answers)

    def _note(self, response: httpx.Response) -> None:
        response.read()
        self._answers.append(f"{response.url} {response.status_code} {dict(response.headers)} {response.text}")
