"""The built-in partition formats do what every format is expected to do."""

from __future__ import annotations

import pytest

from timestore_core.partitions.duckdb_file import DuckDBFile
from timestore_core.partitions.format import PartitionFormat
from timestore_core.partitions.parquet_file import ParquetFile
from timestore_core.testing import PartitionFormatContract


class TestDuckDBFile(PartitionFormatContract):
    @pytest.fixture
    def format_(self) -> PartitionFormat:
        return DuckDBFile()


class TestParquetFile(PartitionFormatContract):
    # Its pages have no checksums that DuckDB looks at: the service fetches such files, and holds them against theirs.
    notices_altered_bytes = False

    @pytest.fixture
    def format_(self) -> PartitionFormat:
        return ParquetFile()
