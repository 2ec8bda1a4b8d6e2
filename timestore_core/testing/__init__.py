"""What every plugin's part is expected to do, as pytest classes to subclass. Needs pytest and nothing else.

A subclass is named `Test…` and gives fixtures: `driver`, `format_`, `aggregation`, `queue` or `plugin`. pytest then
runs every test of the suite over the part.
"""

from __future__ import annotations

import pytest

for _module in ("aggregations", "authorizer", "partitions", "queues", "storage"):
    pytest.register_assert_rewrite(f"{__name__}.{_module}")

from timestore_core.testing.aggregations import AggregationContract  # noqa: E402
from timestore_core.testing.authorizer import AuthorizerContract  # noqa: E402
from timestore_core.testing.partitions import PartitionFormatContract  # noqa: E402
from timestore_core.testing.queues import QueueContract  # noqa: E402
from timestore_core.testing.storage import StorageDriverContract  # noqa: E402

__all__ = [
    "AggregationContract",
    "AuthorizerContract",
    "PartitionFormatContract",
    "QueueContract",
    "StorageDriverContract",
]
