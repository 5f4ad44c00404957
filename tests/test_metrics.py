"""Scores agree with scikit-learn, with numbers worked out by hand, and refuse what they cannot score."""

import math

import numpy as np
import pytest
from sklearn import metrics as oracle

from deepbloom.metrics import (
    best_guesses,
    bin_by_confidence,
    brier_scores,
    confusion_matrix,
    expected_calibration_error,
    macro_f1,
    mean_cross_entropy,
    report_classes,
    score_logits,
    top_k_accuracy,
)

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, 3.0, 2.0], [5.0, 0.0, 1.0]])
TARGETS = np.array([0, 1, 1, 2])


@pytest.fixture
def random_batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(400, 7)), rng.integers(0, 7, 400)


@pytest.mark.parametrize(("k", "expected"), [(1, 0.5), (2, 1.0), (3, 1.0), (9, 1.0)])
def test_top_k_accuracy_by_hand(k, expected):
    assert top_k_accuracy(LOGITS, TARGETS, k) == expected


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_top_k_accuracy_equals_scikit_learn(random_batch, k):
    logits, targets = random_batch
    expected = oracle.top_k_accuracy_score(targets, logits, k=k)
    assert top_k_accuracy(logits, targets, k) == pytest.approx(expected, abs=1e-15)


def test_equal_logits_are_no_free_hits():
    assert top_k_accuracy(np.zeros((10, 5)), np.arange(10) % 5, 1) == 0.2
    assert top_k_accuracy(np.zeros((10, 5)), np.arange(10) % 5, 2) == 0.4


def test_top1_accuracy_is_that_of_argmax_even_with_ties():
    rng = np.random.default_rng(1)
    logits, targets = rng.integers(0, 3, (500, 6)).astype(float), rng.integers(0, 6, 500)
    assert top_k_accuracy(logits, targets, 1) == (logits.argmax(1) == targets).mean()


def test_cross_entropy_by_hand_and_by_scikit_learn(random_batch):
    assert mean_cross_entropy(np.zeros((3, 4)), [0, 1, 2]) == pytest.approx(math.log(4))
    logits, targets = random_batch
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert mean_cross_entropy(logits, targets) == pytest.approx(oracle.log_loss(targets, probabilities))


def test_cross_entropy_of_huge_logits_is_finite():
    assert mean_cross_entropy([[1e4, 0.0], [0.0, 1e4]], [0, 0]) == pytest.approx(5e3)


def test_confusion_matrix_and_class_scores_equal_scikit_learn(random_batch):
    logits, targets = random_batch
    predictions = logits.argmax(1)
    confusion = confusion_matrix(predictions, targets, 7)
    np.testing.assert_array_equal(confusion, oracle.confusion_matrix(targets, predictions, labels=range(7)))
    report = report_classes(confusion)
    expected = oracle.precision_recall_fscore_support(targets, predictions, labels=range(7), zero_division=0)
    for ours, theirs in zip((report.precision, report.recall, report.f1, report.support), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-15)


def test_rows_are_true_classes_and_columns_are_predictions():
    assert confusion_matrix([1, 1, 0], [0, 0, 0], 2).tolist() == [[1, 2], [0, 0]]


def test_macro_f1_equals_scikit_learn_with_absent_classes():
    rng = np.random.default_rng(2)
    predictions, targets = rng.integers(0, 4, 60), rng.integers(1, 5, 60)
    expected = oracle.f1_score(targets, predictions, average="macro", zero_division=0)
    assert macro_f1(predictions, targets, 9) == pytest.approx(expected, abs=1e-15)


def test_macro_f1_counts_a_rare_class_as_much_as_a_common_one():
    targets = np.array([0] * 99 + [1])
    assert macro_f1(np.zeros(100, int), targets, 2) == pytest.approx((2 * 99 / 199 + 0) / 2)


def test_calibration_error_by_hand():
    # Sorted: 0.6 0.6 0.6 | 0.8 0.9 1.0, of which 1/3 and 3/3 are right: (0.6 - 1/3 + 1 - 0.9) / 2.
    confidences, correct = [0.8, 0.6, 1.0, 0.6, 0.9, 0.6], [1, 0, 1, 1, 1, 0]
    assert expected_calibration_error(confidences, correct, 2) == pytest.approx((0.6 - 1 / 3 + 0.1) / 2)


def test_calibration_error_equals_a_plain_loop():
    rng = np.random.default_rng(3)
    confidences = rng.uniform(0, 1, 300)
    correct = rng.uniform(0, 1, 300) < confidences**2
    rows = sorted(zip(confidences, correct, strict=True))
    gaps = [abs(np.mean([r - c for c, r in rows[start : start + 20]])) for start in range(0, 300, 20)]
    assert expected_calibration_error(confidences, correct) == pytest.approx(np.mean(gaps))


def test_calibration_error_does_not_depend_on_the_order_of_equal_confidences():
    confidences = np.repeat([0.5, 0.9], 20)
    correct = np.arange(40) % 3 > 0
    order = np.random.default_rng(0).permutation(40)
    error = expected_calibration_error(confidences, correct)
    assert expected_calibration_error(confidences[order], correct[order]) == pytest.approx(error, abs=1e-15)
    assert expected_calibration_error(confidences, np.sort(correct)) != pytest.approx(error)


def test_bins_hold_equal_numbers_from_the_least_confident():
    bins = bin_by_confidence([1.0, 0.0, 1.0, 0.2, 0.9], [True, False, False, True, True], 2)
    assert bins.counts.tolist() == [3, 2]
    assert bins.bin_of.tolist() == [1, 0, 1, 0, 0]
    assert bins.accuracy.tolist() == [pytest.approx(2 / 3), 0.5]
    assert len(bin_by_confidence([0.3, 0.4], [True, False]).counts) == 2


def test_brier_scores_by_hand():
    assert brier_scores(np.array([[0.7, 0.2, 0.1], [0, 1, 0]]), np.array([0, 2])) == pytest.approx([0.14, 2])


def test_the_five_best_are_those_of_the_logits_where_probabilities_vanish():
    logits = np.array([0.0, 300.0, 100.0, 90.0, 80.0, 70.0, 60.0])
    assert [guess["index"] for guess in best_guesses(logits, 0.05, "abcdefg")] == [1, 2, 3, 4, 5]


def test_score_logits_is_the_test_block_of_a_run(random_batch):
    logits, targets = random_batch
    scores = score_logits(logits.astype(np.float32), targets)
    assert set(scores) == {"top1_accuracy", "top5_accuracy", "macro_f1", "loss", "count"}
    assert scores["count"] == 400
    assert scores["top1_accuracy"] == (logits.argmax(1) == targets).mean()


def test_tensors_score_like_arrays(random_batch):
    torch = pytest.importorskip("torch")
    logits, targets = random_batch
    assert score_logits(torch.from_numpy(logits), torch.from_numpy(targets)) == score_logits(logits, targets)


@pytest.mark.parametrize(
    ("logits", "targets", "said"),
    [
        ([[np.nan, 0.0]], [0], "NaN"),
        ([[1.0, 0.0]], [2], "class indices"),
        ([[1.0, 0.0]], [-1], "class indices"),
        ([[1.0, 0.0]], [0.5], "class indices"),
        ([[1.0, 0.0]], [0, 1], "must be"),
        (np.zeros((0, 3)), np.zeros(0, int), "at least 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(logits, targets, said):
    with pytest.raises(ValueError, match=said):
        score_logits(logits, targets)


def test_confidences_outside_zero_to_one_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        expected_calibration_error([1.2], [True])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        expected_calibration_error([float("nan")], [True])
