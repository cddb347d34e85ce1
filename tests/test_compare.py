"""Paired comparison: intervals that hold at every moment at once, and get short.

The simulations are vectorised over streams; what is checked there are the functions `Difference` uses, and
that it uses them so is checked on single streams.
"""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import gamma, gammainc

from streamlearn.studies.backtest import compare
from streamlearn.studies.backtest.compare import (
    ALPHA,
    MIN_LABELS,
    Difference,
    Interval,
    asymptotic_radius,
    bounded_radius,
    verdict,
)

Array = NDArray[np.float64]


def spreads(values: Array) -> Array:
    """`Difference.spread` after each value of each stream (rows)."""
    n = np.arange(1, values.shape[1] + 1)
    before = np.zeros_like(values)
    before[:, 1:] = np.cumsum(values, axis=1)[:, :-1] / n[:-1]
    return np.asarray(np.cumsum((values - before) ** 2, axis=1))


def differences_of_answers(streams: int, length: int, seed: int) -> tuple[Array, Array]:
    """Differences of 0/1 losses on a drifting stream, and their conditional means: who is better changes,
    and how often they disagree depends on what came before.
    """
    rng = np.random.default_rng(seed)
    drift = 0.1 * np.sin(np.arange(length) / 60)
    values, means = np.zeros((streams, length)), np.zeros((streams, length))
    before = np.zeros(streams)
    for t in range(length):
        disagree = 0.3 + 0.1 * before
        first_wrong = (disagree + drift[t]) / 2
        u = rng.random(streams)
        values[:, t] = np.where(u < first_wrong, 1.0, np.where(u < disagree, -1.0, 0.0))
        means[:, t] = drift[t]
        before = values[:, t]
    return values, means


def share_that_ever_misses(values: Array, means: Array, half: Array, first: int) -> float:
    """Of the streams (rows), those whose interval misses the mean at some label from `first` on."""
    n = np.arange(1, values.shape[1] + 1)
    off = np.abs(np.cumsum(values - means, axis=1) / n)
    return float(np.mean((off > half)[:, first - 1 :].any(axis=1)))


def test_bounded_intervals_hold_at_every_moment_of_a_drifting_stream() -> None:
    values, means = differences_of_answers(streams=2000, length=1500, seed=1)
    n, spread = np.arange(1, values.shape[1] + 1), spreads(values)
    # Rounded down: these intervals are a little shorter than those that are given.
    table = np.array([bounded_radius(float(v)) for v in range(int(spread.max()) + 1)])
    missed = share_that_ever_misses(values, means, table[spread.astype(int)] / n, 1)
    fixed = share_that_ever_misses(values, means, 1.96 * np.sqrt(spread) / n, 50)
    assert fixed > 0.3, "the usual 95 % interval, looked at after every label"
    assert missed <= ALPHA
    assert missed > 0.002, "or it would be longer than it need be"


def test_asymptotic_intervals_hold_at_every_moment_for_errors_without_bound() -> None:
    rng = np.random.default_rng(2)
    length = 1500
    means = np.broadcast_to(0.5 * np.sin(np.arange(length) / 100), (1500, length))
    values = means + rng.exponential(2.0, means.shape) - rng.exponential(2.0, means.shape)
    n, spread = np.arange(1, length + 1), spreads(values)
    half = np.array([asymptotic_radius(int(k), 1.0) for k in n]) * np.sqrt(spread)
    missed = share_that_ever_misses(values, means, half, MIN_LABELS)
    fixed = share_that_ever_misses(values, means, 1.96 * np.sqrt(spread) / n, MIN_LABELS)
    assert fixed > 0.2, "the usual 95 % interval, looked at after every label"
    assert 0.002 < missed <= ALPHA


@pytest.mark.parametrize(("distance", "spread"), [(0, 0), (3, 1), (10, 20), (60, 500), (-3, 10)])
def test_the_closed_form_is_the_integral_of_the_mixture(distance: float, spread: float) -> None:
    """Howard et al. 2021: exp(λ distance - ψ(λ) spread), ψ sub-exponential of scale c, mixed over λ."""
    c, rho = compare._SCALE, compare._rho()
    a = rho / c**2

    def mixed(rate: float) -> float:
        psi = (-math.log(1 - c * rate) - c * rate) / c**2
        density = c * a**a / (gamma(a) * gammainc(a, a)) * (1 - c * rate) ** (a - 1)
        return float(math.exp(rate * distance - psi * spread - a * (1 - c * rate)) * density)

    integral, _error = quad(mixed, 0, 1 / c)
    assert math.exp(compare.log_evidence(distance, spread)) == pytest.approx(integral, rel=1e-6)


@pytest.mark.parametrize("labels", [100, 1000, 30_000])
def test_at_its_ends_the_evidence_against_an_asymptotic_interval_is_just_enough(labels: int) -> None:
    """A Gaussian mixture over λ of exp(λ distance - λ² labels / 2), for values of variance one."""
    distance, variance = asymptotic_radius(labels, labels) * labels, compare._asymptotic_rho2()

    def mixed(rate: float) -> float:
        density = math.exp(-(rate**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        return math.exp(rate * distance - rate**2 * labels / 2) * density

    peak = distance / (labels + 1 / variance)
    integral, _error = quad(mixed, -10 * peak, 10 * peak, points=[peak], limit=500)
    assert integral == pytest.approx(1 / ALPHA, rel=1e-4)


@pytest.mark.parametrize("spread", [0.0, 1.0, 37.5, 1e3, 1e6, 1e9])
def test_at_its_ends_the_evidence_against_a_bounded_interval_is_just_enough(spread: float) -> None:
    evidence = compare.log_evidence(bounded_radius(spread), spread)
    assert math.exp(evidence) == pytest.approx(2 / ALPHA, rel=1e-3)


@pytest.mark.parametrize("bounded", [True, False])
def test_a_difference_is_streamed_and_says_what_the_formulas_say(bounded: bool) -> None:
    values = np.random.default_rng(3).choice([-1.0, 0.0, 0.0, 1.0], 400)
    streamed = Difference(bounded)
    for part in np.split(values, [1, 2, 150]):
        streamed.add(part)
    spread = float(spreads(values[None, :])[0, -1])
    half = bounded_radius(spread) / 400 if bounded else asymptotic_radius(400, spread)
    assert streamed.labels == 400
    assert streamed.mean == pytest.approx(float(values.mean()))
    assert streamed.interval() == pytest.approx((values.mean() - half, values.mean() + half))


@pytest.mark.parametrize("bounded", [True, False])
def test_intervals_shrink_and_tell_a_true_difference(bounded: bool) -> None:
    rng = np.random.default_rng(4)
    streamed = Difference(bounded)
    widths, said = [], []
    for more in (200, 1_800, 18_000):
        streamed.add(rng.choice([1.0, -1.0, 0.0], more, p=[0.12, 0.08, 0.8]))
        found = streamed.interval()
        assert found is not None
        widths.append(found.high - found.low)
        said.append(verdict(found))
    assert widths[0] > 2.5 * widths[1] > 6 * widths[2]
    assert said[0] == 0
    assert said[-1] == 1


def test_nothing_is_said_before_anything_can_be() -> None:
    assert Difference(bounded=True).interval() is None
    few = Difference(bounded=False)
    few.add(np.full(MIN_LABELS - 1, 5.0))
    assert few.interval() is None
    few.add(np.array([5.0]))
    assert few.interval() is not None


def test_the_first_bounded_intervals_are_all_there_is() -> None:
    one = Difference(bounded=True)
    one.add(np.array([1.0]))
    assert one.interval() == Interval(-1.0, 1.0)


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        (None, 0),
        (Interval(-0.2, 0.1), 0),
        (Interval(0.0, 0.1), 0),
        (Interval(-0.2, -0.1), -1),
        (Interval(0.1, 0.2), 1),
    ],
)
def test_the_verdict_is_whose_loss_is_smaller(interval: Interval | None, said: int) -> None:
    assert verdict(interval) == said


def test_equal_models_are_never_told_apart_in_long_ties() -> None:
    same = Difference(bounded=True)
    same.add(np.zeros(100_000))
    found = same.interval()
    assert found is not None
    assert verdict(found) == 0
    assert found.high < 0.001
