"""A minute and a half of the soak, and the arithmetic by which it judges."""

from pathlib import Path

import pytest

from tests.reliability.soak import DURATION, READS, THREADS, Measured, slope, soak


def test_slope_of_a_line_is_exact() -> None:
    rate, width = slope([(x, 3 + 2 * x) for x in range(100)])
    assert rate == pytest.approx(2)
    assert width == pytest.approx(0, abs=1e-9)


def test_slope_of_noise_is_not_told_from_none() -> None:
    rate, width = slope([(x, (x * 7919) % 101) for x in range(1000)])
    assert abs(rate) < width


def test_what_grows_is_told_but_for_times() -> None:
    grows, stands = (3600.0, 100.0, 100.0), (0.0, 100.0, 100.0)
    slopes = {
        DURATION: grows,
        READS: grows,
        THREADS: grows,
        "own series": stands,
        "descriptors": (3600.0, 3600.0, 100.0),
    }
    assert Measured(120, 1, 1, 1, 0, slopes, (14, 14)).problems() == [
        "reads (a second) grows by 3.6e+03 ± 100 an hour, mean 100"
    ]
    assert Measured(120, 1, 1, 7, -2, {}, (5, 14)).problems() == ["-2 switches of 7"]
    assert Measured(120, 1, 1, 7, 0, {}, (15, 14)).problems() == ["15 threads, of at most 14"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_soak(tmp_path: Path) -> None:
    measured = soak(90, tmp_path)
    assert measured.switches > 10_000
    assert measured.cgroups > 100
    assert not measured.problems()
