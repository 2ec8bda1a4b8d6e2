"""An engine that is replaced while queries run on the old one: both answer, and neither disturbs the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# In a process of its own: what it guards against ended in a segmentation fault.
_PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from timestore_core.engine.instance import Engine, EngineLimits

MIB = 1024 * 1024
QUESTION = '''
SELECT bit_xor(hash(text, place)) FROM (
    SELECT text, row_number() OVER (ORDER BY text DESC) AS place
    FROM (SELECT md5(i::VARCHAR) || md5((-i)::VARCHAR) || md5((7 * i)::VARCHAR) AS text FROM range(250000) AS r(i))
)
'''

def answers(instance):
    found = []
    for _ in range(2):
        with instance.cursor() as cursor:
            found.append(cursor.execute(QUESTION).fetchone())
    return found

roomy = Engine("roomy", EngineLimits(2, 2048 * MIB, 2048 * MIB, Path(sys.argv[1]) / "roomy"))
with roomy.lease([]) as instance:
    right = answers(instance)
tight = Engine("tight", EngineLimits(1, 48 * MIB, 2048 * MIB, Path(sys.argv[1]) / "tight"))
with ThreadPoolExecutor(2) as pool, tight.lease(["/first"]) as old, tight.lease(["/first", "/second"]) as new:
    assert old is not new
    found = [running.result() for running in [pool.submit(answers, one) for one in (old, new)]]
assert found == [right, right], found
print("both answered")
"""


def test_an_old_and_a_new_engine_that_spill_at_once_give_the_right_answers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )

    assert (done.returncode, done.stdout) == (0, "both answered\n"), done.stderr[-2000:]
