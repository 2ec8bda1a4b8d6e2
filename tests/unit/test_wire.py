"""Typed structures out of JSON, also where many threads ask for a type for the first time."""

from __future__ import annotations

import subprocess
import sys

_MANY_THREADS = """
import sys, threading
import msgspec
from timestore_core.wire import decode

sys.setswitchinterval(1e-6)
BODY = b'{"a": {"b": {"x": 1}}, "c": [{"x": 2}], "d": {"e": {"x": null}}}'
for _ in range(40):
    # As the wire's structures are: nested, with optional fields.
    leaf = msgspec.defstruct("Leaf", [("x", int | None, None)])
    inner = msgspec.defstruct("Inner", [("b", leaf | None, None)])
    kind = msgspec.defstruct("Kind", [("a", inner | None, None), ("c", list[leaf], []), ("d", dict[str, leaf], {})])
    barrier = threading.Barrier(16)

    def read():
        barrier.wait()
        for _ in range(20):
            assert decode(BODY, kind).a.b.x == 1

    threads = [threading.Thread(target=read) for _ in range(16)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
"""


def test_many_threads_may_read_a_type_for_the_first_time() -> None:
    done = subprocess.run([sys.executable, "-c", _MANY_THREADS], capture_output=True, text=True, timeout=300)

    assert (done.returncode, done.stderr) == (0, "")
