"""Intervals and tests agree with scipy, statsmodels and hand-computed cases, and call equal models a tie."""

import numpy as np
import pytest
from scipy import stats

from deepbloom.report.statistics import (
    SMALLEST_P,
    compare_runs,
    compare_seeds,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    pareto_front,
    seed_interval,
    wilson_interval,
)


def paired(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
    second = np.repeat([True, False, True, False], [both, only_first, only_second, neither])
    return first, second


def simulate_runs(
    rng: np.random.Generator, accuracies: tuple[float, float], seeds: int, images: int, seed_spread: float
) -> list[np.ndarray]:
    """Two models on images of their own difficulty: bool, shape (seeds, images) each."""
    difficulty = rng.normal(size=images)
    tables = []
    for accuracy in accuracies:
        skill = stats.norm.ppf(accuracy) * np.sqrt(1.5) + rng.normal(scale=seed_spread, size=(seeds, 1))
        own = rng.normal(scale=np.sqrt(0.5), size=(seeds, images))
        tables.append(difficulty + own < skill)
    return tables


def test_wilson_interval_by_hand():
    low, high = wilson_interval(0, 10)
    assert low == 0
    assert high == pytest.approx(1.959964**2 / (10 + 1.959964**2), rel=1e-6)  # z^2 / (n + z^2) = 0.2775


@pytest.mark.parametrize(("successes", "total"), [(0, 7), (7, 7), (1, 30), (15, 30), (1590, 1638)])
def test_wilson_interval_equals_scipy(successes, total):
    expected = stats.binomtest(successes, total).proportion_ci(method="wilson")
    assert wilson_interval(successes, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_equals_statsmodels():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    expected = proportion.proportion_confint(93, 100, method="wilson")
    assert wilson_interval(93, 100) == pytest.approx(expected, abs=1e-12)


def test_wilson_interval_takes_arrays():
    low, high = wilson_interval([5, 9], [10, 10])
    assert low.shape == high.shape == (2,)
    assert high[1] == wilson_interval(9, 10)[1]


def test_seed_interval_by_hand_and_by_scipy():
    low, high = seed_interval([0.90, 0.91, 0.92])
    assert high - 0.91 == pytest.approx(4.302653 * 0.01 / np.sqrt(3), rel=1e-6)
    values = [0.81, 0.84, 0.79, 0.86, 0.83]
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert seed_interval(values) == pytest.approx(expected, abs=1e-12)
    assert low == pytest.approx(0.91 - (high - 0.91))


def test_seed_interval_stays_in_zero_to_one_and_needs_two_seeds():
    assert seed_interval([0.9, 1.0]) == (pytest.approx(0.3147, abs=1e-3), 1.0)
    with pytest.raises(ValueError, match="at least 2"):
        seed_interval([0.9])


def test_mcnemar_by_hand():
    first, second = paired(50, 7, 1, 10)
    assert mcnemar_exact(first, second) == pytest.approx(2 * (1 + 8) / 2**8)
    assert mcnemar_exact(second, first) == mcnemar_exact(first, second)


def test_mcnemar_of_models_that_never_differ_is_one():
    first, second = paired(30, 0, 0, 5)
    assert mcnemar_exact(first, second) == 1.0


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 6), (3, 3), (12, 25), (40, 12)])
def test_mcnemar_equals_scipy_and_statsmodels(only_first, only_second):
    first, second = paired(100, only_first, only_second, 20)
    expected = stats.binomtest(only_first, only_first + only_second).pvalue
    assert mcnemar_exact(first, second) == pytest.approx(expected, rel=1e-9)
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    oracle = contingency.mcnemar([[100, only_first], [only_second, 20]], exact=True)
    assert mcnemar_exact(first, second) == pytest.approx(oracle.pvalue, rel=1e-9)


def test_bootstrap_agrees_with_resampling_image_by_image():
    first, second = paired(300, 45, 20, 35)
    rng = np.random.default_rng(1)
    gains = first.astype(int) - second.astype(int)
    draws = gains[rng.integers(0, len(gains), (4000, len(gains)))].mean(axis=1)
    assert paired_bootstrap(first, second) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.004)


def test_bootstrap_is_seeded_and_of_equal_predictions_has_no_width():
    first, second = paired(3000, 412, 309, 279)
    assert paired_bootstrap(first, second, 200) == paired_bootstrap(first, second, 200)
    assert paired_bootstrap(first, second, 200, seed=1) != paired_bootstrap(first, second, 200)
    assert paired_bootstrap(first, first) == (0.0, 0.0)


def test_paired_arrays_must_be_of_the_same_images():
    with pytest.raises(ValueError, match="one shape"):
        mcnemar_exact([True, False], [True])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_holm_equals_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = np.random.default_rng(0).uniform(size=30) ** 3
    np.testing.assert_allclose(holm(p_values), multitest.multipletests(p_values, method="holm")[1], atol=1e-12)


def test_seeds_that_repeat_each_other_leave_a_paired_t_test_over_images():
    rng = np.random.default_rng(0)
    first, second = rng.random(200) < 0.8, rng.random(200) < 0.7
    found = compare_seeds(np.stack([first] * 3), np.stack([second] * 2))
    expected = stats.ttest_rel(first.astype(float), second.astype(float))
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_images_that_are_all_alike_leave_a_t_test_over_seeds():
    first, second = np.array([1, 1, 0, 1, 1]), np.array([0, 0, 1])
    found = compare_seeds(np.repeat(first[:, None], 50, axis=1), np.repeat(second[:, None], 50, axis=1))
    expected = stats.ttest_ind(first, second)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)


def test_one_run_against_several_borrows_their_spread():
    rng = np.random.default_rng(3)
    first, second = simulate_runs(rng, (0.9, 0.9), 3, 400, 0.3)
    alone = compare_runs(first[0], second[0])
    several = compare_seeds(first, second[:1])
    assert several.high - several.low > alone.high - alone.low


@pytest.mark.parametrize("seeds", [(1, 2), (1, 3), (3, 1), (1, 5)])
@pytest.mark.parametrize("seed_spread", [0.05, 0.15, 0.3])
def test_equal_models_of_which_one_has_one_run_are_a_tie_about_95_times_in_100(seeds, seed_spread):
    rng = np.random.default_rng(11)
    found = []
    for _ in range(1000):
        tables = simulate_runs(rng, (0.85, 0.85), max(seeds), 400, seed_spread)
        found.append(compare_seeds(*(table[:count] for table, count in zip(tables, seeds, strict=True))))
    ties = np.mean([f.p_value >= 0.05 for f in found])
    assert ties >= 0.93
    assert np.mean([f.low <= 0 <= f.high for f in found]) == pytest.approx(ties, abs=1e-9)


def test_seeds_that_happen_to_be_alike_do_not_make_one_run_certain():
    """Negative control: Satterthwaite's t, which compare_seeds uses for several seeds each, is too sure here."""
    rng = np.random.default_rng(7)
    found, sure = [], []
    for _ in range(300):
        two, one = simulate_runs(rng, (0.85, 0.85), 2, 400, 0.3)
        one = one[:1]
        found.append(compare_seeds(one, two).p_value >= 0.05)
        v_images = (one.mean(0) - two.mean(0)).var(ddof=1) / 400
        v_seeds = two.mean(1).var(ddof=1) * 1.5
        freedom = (v_images + v_seeds) ** 2 / (v_images**2 / 399 + v_seeds**2)
        t = abs(one.mean() - two.mean()) / np.sqrt(v_images + v_seeds)
        sure.append(2 * stats.t.sf(t, freedom) >= 0.05)
    assert np.mean(sure) < 0.9
    assert np.mean(found) > 0.93


def test_one_run_against_two_by_hand():
    one = np.array([[1, 1, 1, 1, 0, 1, 1, 1]], bool)
    two = np.array([[1, 0, 1, 0, 0, 1, 0, 1], [1, 0, 0, 0, 0, 0, 1, 1]], bool)
    found = compare_seeds(one, two)
    v_images = np.var([0, 1, 0.5, 1, 0, 0.5, 0.5, 0], ddof=1) / 8
    v_seeds = (4 / 8 - 3 / 8) ** 2 / 2 * (1 + 1 / 2)
    half = np.sqrt(stats.t.ppf(0.975, 7) ** 2 * v_images + stats.t.ppf(0.975, 1) ** 2 * v_seeds)
    assert found.estimate == pytest.approx(3.5 / 8)
    assert found.low == pytest.approx(max(-1, 3.5 / 8 - half))
    t_images, t_seeds = (stats.t.ppf(found.p_value / 2, freedom) for freedom in (7, 1))
    assert t_images**2 * v_images + t_seeds**2 * v_seeds == pytest.approx(found.estimate**2)


def test_one_run_that_equals_the_mean_of_others_is_no_difference():
    found = compare_seeds(np.array([[1, 1, 0, 0]]), np.array([[1, 1, 1, 0], [1, 0, 0, 0]]))
    assert (found.estimate, found.p_value) == (0, 1)


def test_a_difference_beyond_all_doubt_has_the_smallest_p_value():
    found = compare_seeds(np.ones((1, 1000)), np.tile(np.arange(1000) % 50 == 0, (3, 1)))
    assert found.p_value == SMALLEST_P
    assert found.low > 0.9


def test_models_without_any_difference_have_an_interval_of_zero():
    same = np.ones((2, 10), bool)
    found = compare_seeds(same, same)
    assert (found.estimate, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_single_runs_are_no_table_of_seeds():
    with pytest.raises(ValueError, match="several seeds"):
        compare_seeds(np.ones((1, 5)), np.ones((1, 5)))


def test_equal_single_runs_are_a_tie_about_95_times_in_100():
    rng = np.random.default_rng(0)
    found = [compare_runs(*(t[0] for t in simulate_runs(rng, (0.85, 0.85), 1, 600, 0.0))) for _ in range(400)]
    assert 0.93 <= np.mean([f.p_value >= 0.05 for f in found]) <= 0.99
    assert 0.93 <= np.mean([f.low <= 0 <= f.high for f in found]) <= 0.98


@pytest.mark.parametrize("seed_spread", [0.05, 0.3])
@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_models_with_several_seeds_are_a_tie_about_95_times_in_100(seeds, seed_spread):
    rng = np.random.default_rng(10 * seeds)
    found = [compare_seeds(*simulate_runs(rng, (0.85, 0.85), seeds, 400, seed_spread)) for _ in range(400)]
    ties = np.mean([f.p_value >= 0.05 for f in found])
    assert 0.92 <= ties <= 0.99
    assert np.mean([f.low <= 0 <= f.high for f in found]) == pytest.approx(ties, abs=1e-9)


def test_seeds_must_not_be_taken_for_more_images():
    """Negative control: pooled predictions of all seeds ignore that a seed shifts all its predictions together."""
    rng = np.random.default_rng(5)
    tables = [simulate_runs(rng, (0.85, 0.85), 3, 400, 0.3) for _ in range(200)]
    naive = np.mean([mcnemar_exact(a.reshape(-1), b.reshape(-1)) >= 0.05 for a, b in tables])
    sound = np.mean([compare_seeds(a, b).p_value >= 0.05 for a, b in tables])
    assert naive < 0.8
    assert sound >= 0.92


def test_models_that_differ_are_rarely_called_a_tie():
    rng = np.random.default_rng(1)
    single = [compare_runs(*(t[0] for t in simulate_runs(rng, (0.85, 0.79), 1, 600, 0.0))) for _ in range(100)]
    several = [compare_seeds(*simulate_runs(rng, (0.85, 0.79), 3, 400, 0.05)) for _ in range(100)]
    assert np.mean([f.p_value < 0.05 for f in single]) > 0.85
    assert np.mean([f.p_value < 0.05 for f in several]) > 0.85


def test_pareto_front_by_hand_and_by_brute_force():
    costs, scores = np.array([1, 2, 2, 3, 3]), np.array([0.5, 0.7, 0.6, 0.7, 0.9])
    assert pareto_front(costs, scores).tolist() == [True, True, False, False, True]
    rng = np.random.default_rng(0)
    costs, scores = rng.integers(0, 9, 60), rng.integers(0, 9, 60)
    beaten = [
        any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in zip(costs, scores, strict=True))
        for cost, score in zip(costs, scores, strict=True)
    ]
    assert pareto_front(costs, scores).tolist() == [not b for b in beaten]
    assert pareto_front([], []).tolist() == []
