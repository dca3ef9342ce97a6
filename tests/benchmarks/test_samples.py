"""What many measurements come to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.samples import Spread, latency_metrics, longest_gap, quantile, spreads

floats = st.floats(-1e6, 1e6)


def test_a_spread_is_median_least_and_greatest_of_its_runs() -> None:
    spread = Spread((5.0, 1.0, 9.0, 2.0))
    assert (spread.median, spread.low, spread.high) == (3.5, 1.0, 9.0)


def test_a_spread_of_no_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="no runs"):
        Spread(())


@pytest.mark.parametrize(
    ("count", "fraction", "rank"),
    [
        pytest.param(1, 0.99, 1, id="one value is every quantile"),
        pytest.param(100, 0.5, 50, id="median"),
        pytest.param(100, 0.99, 99, id="p99 of a hundred leaves one above"),
        pytest.param(100, 0.999, 100, id="p99.9 of a hundred is the greatest"),
        pytest.param(1000, 1.0, 1000, id="all"),
    ],
)
def test_a_quantile_is_the_nearest_rank(count: int, fraction: float, rank: int) -> None:
    assert quantile(range(1, count + 1), fraction) == rank


@given(st.lists(floats, min_size=1), st.floats(0.001, 1))
def test_a_quantile_is_exceeded_by_no_more_than_its_share(values: list[float], fraction: float) -> None:
    found = quantile(sorted(values), fraction)
    assert found in values
    assert sum(value > found for value in values) <= (1 - fraction) * len(values) + 1e-9


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1])
def test_a_fraction_out_of_bounds_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        quantile([1.0], fraction)


def test_latencies_become_milliseconds() -> None:
    assert latency_metrics([0.002] * 99 + [1.0]) == {"p50 ms": 2.0, "p99 ms": 2.0, "p99.9 ms": 1000.0, "max ms": 1000.0}


def test_a_metric_that_one_run_lacks_is_the_spread_of_the_others() -> None:
    found = spreads([{"a": 1.0, "b": 5.0}, {"a": 3.0}])
    assert (found["a"].median, found["b"].runs) == (2.0, (5.0,))


def test_the_longest_gap_is_between_neighbours() -> None:
    assert longest_gap([1.0, 1.5, 4.0, 4.1]) == 2.5
