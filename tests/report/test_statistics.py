"""Intervals and tests agree with scipy, statsmodels and hand-computed cases, and call equal models a tie."""

from functools import partial

import numpy as np
import pytest
from scipy import stats

from deepbloom.report.intervals import mean_interval, seed_interval, wilson_interval
from deepbloom.report.statistics import (
    SMALLEST_P,
    compare_folds,
    compare_runs,
    compare_seeds,
    compare_values,
    correct_for_number,
    holm,
    mcnemar_exact,
    pareto_front,
)


def paired(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
    second = np.repeat([True, False, True, False], [both, only_first, only_second, neither])
    return first, second


def simulate_runs(
    rng: np.random.Generator,
    accuracies: tuple[float, float],
    seeds: int | tuple[int, int],
    images: int,
    spreads: float | tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Two models on images of their own difficulty: bool, shape (seeds, images) each.

    ``spreads`` is the deviation of their skill over seeds. Of 0.3, accuracies near 85 % vary by 5.7 points.
    """
    difficulty = rng.normal(size=images)
    tables = []
    for accuracy, count, spread in zip(accuracies, np.broadcast_to(seeds, 2), np.broadcast_to(spreads, 2), strict=True):
        spread_of_all = np.sqrt(1.5 + spread**2)  # keeps the mean accuracy, whatever the spread
        skill = stats.norm.ppf(accuracy) * spread_of_all + rng.normal(scale=spread, size=(count, 1))
        tables.append(difficulty + np.sqrt(0.5) * rng.standard_normal((count, images), np.float32) < skill)
    return tables[0], tables[1]


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


@pytest.mark.parametrize(("only_first", "only_second", "count"), [(0, 6, 40), (3, 3, 6), (12, 25, 892), (40, 12, 100)])
def test_the_interval_of_two_runs_by_hand(only_first, only_second, count):
    """Bonett and Price: the Wald interval with an image more in favor of each."""
    assert -1 <= compare_runs([True] * 5, [False] * 5, 0.95).low < compare_runs([True] * 5, [False] * 5, 0.95).high == 1
    found = compare_runs(*paired(count - only_first - only_second, only_first, only_second, 0), 0.95)
    first, second = (only_first + 1) / (count + 2), (only_second + 1) / (count + 2)
    half = 1.959964 * np.sqrt((first + second - (first - second) ** 2) / (count + 2))
    assert found.estimate == pytest.approx((only_first - only_second) / count)
    assert (found.low, found.high) == pytest.approx((first - second - half, first - second + half), abs=1e-6)


def test_the_interval_of_two_runs_never_contradicts_the_exact_test():
    """The control: of nine images against none, Bonett and Price's interval alone does at 99.5 %."""
    for gains in range(15):
        for losses in range(gains + 1):
            for confidence in (0.95, 0.995, 0.9995):
                found = compare_runs(*paired(800, gains, losses, 7), confidence)
                assert (found.p_value < 1 - confidence) == (found.low > 0)
                assert found.low <= found.estimate <= found.high
    p, q = 10 / 894, 1 / 894
    assert p - q < stats.norm.ppf(0.9975) * np.sqrt((p + q - (p - q) ** 2) / 894)
    assert compare_runs(*paired(883, 9, 0, 0), 0.995).low > 0


def test_four_images_against_none_are_no_difference_and_none_against_none_is_not_certain():
    found = compare_runs(*paired(21, 4, 0, 0))
    assert found.p_value == 0.125
    assert found.low <= 0 < found.high
    same = compare_runs(*paired(25, 0, 0, 0))
    assert (same.estimate, same.p_value) == (0, 1)
    assert same.low < -0.05
    assert same.high == -same.low


def test_the_interval_of_two_runs_covers_the_difference():
    """A classifier that is correct on 12 % of the images where the other fails, and never fails alone, included."""
    rng = np.random.default_rng(2)
    for gain, loss, count in ((0.12, 0.0, 60), (0.1, 0.05, 200), (0.01, 0.002, 892)):
        draws = rng.multinomial(count, [1 - gain - loss, gain, loss], size=1000)
        tables = (compare_runs(*paired(both, first, second, 0)) for both, first, second in draws)
        assert np.mean([found.low <= gain - loss <= found.high for found in tables]) > 0.925


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


def test_holm_counts_the_tests_that_were_left_out():
    assert holm([0.001, 0.01], total=10).tolist() == pytest.approx([0.01, 0.09])
    rest = np.ones(8)
    assert holm([0.001, 0.01], total=10).tolist() == holm([0.001, 0.01, *rest])[:2].tolist()


def test_corrected_intervals_never_contradict_corrected_p_values():
    rng = np.random.default_rng(6)
    for _ in range(20):
        tables = simulate_runs(rng, (0.85, 0.8), 4, 300, 0.05)
        tests = [partial(compare_runs, a, b) for a in tables[0] for b in tables[1]]
        tests += [partial(compare_seeds, *tables), partial(compare_seeds, tables[0], tables[0])]
        corrected = correct_for_number(tests, total=25)
        assert [p for _, p in corrected] == pytest.approx(holm([test(0.95).p_value for test in tests], 25))
        for found, p in corrected:
            assert (p < 0.05) == (not found.low <= 0 <= found.high)


def add_two_images(per_image):
    return np.append(per_image, [1, -1])


def test_seeds_by_hand():
    first = np.array([[1, 1, 1, 1, 0, 1, 1, 1], [1, 1, 1, 0, 0, 1, 1, 1]], bool)
    second = np.array([[1, 0, 1, 0, 0, 1, 0, 1], [1, 0, 0, 0, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0, 0, 1]], bool)
    found = compare_seeds(first, second)
    interaction = 0.0
    for table in (first, second):
        rest = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
        interaction += (rest**2).sum() / ((len(table) - 1) * 7) / table.size
    parts = [
        np.var(add_two_images(first.mean(0) - second.mean(0)), ddof=1) / 8 - interaction,
        np.var([7 / 8, 6 / 8], ddof=1) / 2,
        np.var([4 / 8, 3 / 8, 2 / 8], ddof=1) / 3,
    ]
    freedoms = (7, 1, 2)
    half = np.sqrt(sum(stats.t.ppf(0.975, freedom) ** 2 * part for freedom, part in zip(freedoms, parts, strict=True)))
    assert found.estimate == pytest.approx(13 / 16 - 9 / 24)
    assert found.low == pytest.approx(found.estimate - half)
    assert found.high == pytest.approx(min(1, found.estimate + half))
    at_p = sum(
        stats.t.ppf(found.p_value / 2, freedom) ** 2 * part for freedom, part in zip(freedoms, parts, strict=True)
    )
    assert at_p == pytest.approx(found.estimate**2)


def test_seeds_that_repeat_each_other_leave_a_paired_t_test_over_images():
    rng = np.random.default_rng(0)
    first, second = rng.random(200) < 0.8, rng.random(200) < 0.7
    found = compare_seeds(np.stack([first] * 3), np.stack([second] * 2))
    gains = first.astype(float) - second
    t = gains.mean() / np.sqrt(add_two_images(gains).var(ddof=1) / 200)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), 199), rel=1e-9)


@pytest.mark.parametrize(
    ("seeds", "spreads"),
    [
        ((2, 5), (0.3, 0.02)),
        pytest.param((2, 5), (0.02, 0.3), marks=pytest.mark.long),
        pytest.param((3, 5), (0.3, 0.1), marks=pytest.mark.long),
        ((2, 2), (0.1, 0.0)),
        pytest.param((3, 3), (0.05, 0.05), marks=pytest.mark.long),
        ((1, 3), (0.3, 0.02)),
        pytest.param((1, 5), (0.05, 0.05), marks=pytest.mark.long),
    ],
)
def test_equal_models_are_called_different_in_at_most_6_of_100_cases(seeds, spreads):
    rng = np.random.default_rng(1)
    for images, repeats in ((892, 1500), (8189, 400)):
        found = [compare_seeds(*simulate_runs(rng, (0.85, 0.85), seeds, images, spreads)) for _ in range(repeats)]
        different = np.mean([one.p_value < 0.05 for one in found])
        assert different <= 0.06
        assert np.mean([not one.low <= 0 <= one.high for one in found]) == different


def pooled_p(first, second):
    """The p value with one variance for both models, and Satterthwaite's degrees of freedom."""
    v_images = (first.mean(0) - second.mean(0)).var(ddof=1) / first.shape[1]
    freedom = len(first) + len(second) - 2
    pooled = sum(((table.mean(1) - table.mean()) ** 2).sum() for table in (first, second)) / freedom
    v_seeds = pooled * (1 / len(first) + 1 / len(second))
    freedom = (v_images + v_seeds) ** 2 / (v_images**2 / (first.shape[1] - 1) + v_seeds**2 / freedom)
    return 2 * stats.t.sf(abs(first.mean() - second.mean()) / np.sqrt(v_images + v_seeds), freedom)


def test_pooled_variances_would_call_equal_models_different():
    """Negative control: the same cases, with the spread of five steady seeds taken for that of two unsteady ones."""
    rng = np.random.default_rng(11)
    tables = [simulate_runs(rng, (0.85, 0.85), (2, 5), 892, (0.3, 0.02)) for _ in range(200)]
    assert np.mean([pooled_p(*pair) < 0.05 for pair in tables]) > 0.15


def test_a_single_run_claims_nothing_over_seeds():
    found = compare_seeds(np.ones((1, 1000)), np.tile(np.arange(1000) % 50 == 0, (3, 1)))
    assert found.estimate == pytest.approx(0.98)
    assert (found.low, found.high, found.p_value, found.basis) == (-1, 1, 1, "nothing")


def test_models_of_equal_mean_are_no_difference():
    found = compare_seeds(np.array([[1, 1, 0, 0], [1, 0, 1, 0]]), np.array([[1, 1, 1, 0], [1, 0, 0, 0]]))
    assert (found.estimate, found.p_value) == (0, 1)


def test_a_difference_beyond_all_doubt_has_the_smallest_p_value():
    found = compare_seeds(np.ones((2, 1000)), np.tile(np.arange(1000) % 50 == 0, (3, 1)))
    assert found.p_value == SMALLEST_P
    assert found.low > 0.9


def test_models_without_any_difference_have_an_interval_around_zero():
    found = compare_seeds(np.ones((2, 10), bool), np.ones((2, 10), bool))
    assert (found.estimate, found.p_value) == (0, 1)
    assert -0.5 < found.low == -found.high < -0.1


def test_tables_must_be_of_the_same_images():
    with pytest.raises(ValueError, match="same images"):
        compare_seeds(np.ones((2, 5)), np.ones((2, 6)))


def test_equal_single_runs_are_a_tie_about_95_times_in_100():
    rng = np.random.default_rng(0)
    found = [compare_runs(*(t[0] for t in simulate_runs(rng, (0.85, 0.85), 1, 600, 0.0))) for _ in range(400)]
    assert 0.93 <= np.mean([f.p_value >= 0.05 for f in found]) <= 0.99


def test_seeds_must_not_be_taken_for_more_images():
    """Negative control: pooled predictions of all seeds ignore that a seed shifts all its predictions together."""
    rng = np.random.default_rng(5)
    tables = [simulate_runs(rng, (0.85, 0.85), 3, 400, 0.3) for _ in range(200)]
    naive = np.mean([mcnemar_exact(a.reshape(-1), b.reshape(-1)) >= 0.05 for a, b in tables])
    sound = np.mean([compare_seeds(a, b).p_value >= 0.05 for a, b in tables])
    assert naive < 0.8
    assert sound >= 0.94


def test_models_that_differ_are_rarely_called_a_tie():
    rng = np.random.default_rng(1)
    single = [compare_runs(*(t[0] for t in simulate_runs(rng, (0.85, 0.79), 1, 600, 0.0))) for _ in range(100)]
    several = [compare_seeds(*simulate_runs(rng, (0.85, 0.79), 3, 892, 0.02)) for _ in range(100)]
    assert np.mean([f.p_value < 0.05 for f in single]) > 0.85
    assert np.mean([f.p_value < 0.05 for f in several]) > 0.85


def test_folds_by_hand():
    rng = np.random.default_rng(8)
    first, second = rng.random((2, 100)) < 0.9, rng.random((1, 100)) < 0.7
    fold_of = np.arange(100) % 5
    found = compare_folds(first, second, fold_of, 5)
    per_fold = [(first[:, fold_of == fold].mean() - second[:, fold_of == fold].mean()) for fold in range(5)]
    scale = np.sqrt(np.var(per_fold, ddof=1) * (1 / 5 + 1 / 4))
    assert found.estimate == pytest.approx(np.mean(per_fold))
    assert found.high - found.estimate == pytest.approx(min(1 - found.estimate, stats.t.ppf(0.975, 4) * scale))
    assert found.p_value == pytest.approx(2 * stats.t.sf(found.estimate / scale, 4))
    assert found.basis == "folds"


def test_equal_models_on_overlapping_folds_are_called_different_in_at_most_6_of_100_cases():
    """Folds vary together as their training images do. The control counts images as if training did not vary."""
    rng = np.random.default_rng(9)
    fold_of = np.arange(500) % 5
    sound, naive = [], []
    for _ in range(600):
        difficulty = rng.normal(size=500)
        tables = []
        for _ in range(2):
            shared, own = rng.normal(scale=0.1), rng.normal(scale=0.12, size=5)
            tables.append((difficulty + rng.normal(scale=0.7, size=500) < 1.27 + shared + own[fold_of])[None])
        sound.append(compare_folds(tables[0], tables[1], fold_of, 5).p_value < 0.05)
        naive.append(compare_runs(tables[0][0], tables[1][0]).p_value < 0.05)
    assert np.mean(sound) <= 0.06
    assert np.mean(naive) > 0.1


def test_folds_that_differ_alike_are_not_certain():
    """Two of ten images in each fold: without the spread over images, p would be 0."""
    table = np.ones((1, 20), bool)
    found = compare_folds(table, np.arange(20)[None] % 10 > 0, np.repeat([0, 1], 10), 2)
    assert found.p_value > 0.2


def test_means_by_students_t_and_proportions_by_wilson():
    values = np.random.default_rng(3).uniform(0.2, 0.7, 25)
    expected = stats.t.interval(0.95, 24, values.mean(), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected, abs=1e-12)
    for hits in (0, 4, 25):
        found = mean_interval(np.arange(25) < hits)
        ends = stats.binomtest(hits, 25).proportion_ci(method="wilson")
        assert found == pytest.approx((ends.low, ends.high), abs=1e-12)
    assert mean_interval(np.zeros(25)) == pytest.approx((0, 0.133), abs=1e-3)
    assert mean_interval(np.zeros(25), lowest=-1) == pytest.approx((-0.365, 0.365), abs=1e-3)
    with pytest.raises(ValueError, match="at least 1"):
        mean_interval([])


@pytest.mark.parametrize("count", [10, 25])
def test_intervals_of_a_mean_cover_it_as_often_as_they_say(count):
    draws = np.random.default_rng(1).beta(2, 3, (1000, count))
    covered = [low <= 0.4 <= high for low, high in map(mean_interval, draws)]
    assert np.mean(covered) > 0.925


def test_paired_values_by_students_t_and_pairs_of_zero_and_one_by_mcnemar():
    rng = np.random.default_rng(4)
    first, second = rng.uniform(size=25), rng.uniform(size=25)
    found, expected = compare_values(first, second, 1), stats.ttest_rel(first, second)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(expected.confidence_interval()[:], abs=1e-9)
    hits = paired(10, 4, 0, 11)
    assert compare_values(*hits, 1) == compare_runs(*hits)


def test_differences_that_are_all_equal_are_not_certain():
    """One image proves nothing, nor do ten that differ by 0.2."""
    for count, difference, p in ((1, 0.9, 0.3681), (10, 0.2, 0.5271), (25, 0.5, 0.0124)):
        found = compare_values(np.full(count, difference), np.zeros(count), 1)
        assert found.p_value == pytest.approx(p, abs=1e-4)
        assert (found.low > 0) == (p < 0.05)


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
