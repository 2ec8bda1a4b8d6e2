"""The built-in aggregations and the example's do what every aggregation is expected to do."""

from __future__ import annotations

import pytest
from timestore_aggregations import timestore_aggregations

from tests.contract_suites.example import example
from timestore_core.aggregations import Aggregation
from timestore_core.testing import AggregationContract

BUILT_IN = timestore_aggregations()
EXAMPLE = example("aggregations")


class TestBuiltIn(AggregationContract):
    @pytest.fixture(params=sorted(BUILT_IN))
    def aggregation(self, request: pytest.FixtureRequest) -> Aggregation:
        return BUILT_IN[request.param]


class TestTheExamplesGeomean(AggregationContract):
    @pytest.fixture
    def aggregation(self) -> Aggregation:
        geomean: Aggregation = EXAMPLE["GEOMEAN"]
        return geomean


class TestTheExamplesMad(AggregationContract):
    @pytest.fixture
    def aggregation(self) -> Aggregation:
        mad: Aggregation = EXAMPLE["MAD"]
        return mad
