"""Every figure, of one run or of many, is drawn for small, large and odd inputs, and leaves no state behind."""

import warnings

import matplotlib
import numpy as np
import pytest
from PIL import Image

from deepbloom.analysis import comparison_figures, figures
from deepbloom.analysis.formatting import format_count
from deepbloom.metrics import bin_by_confidence

ODD_NAMES = ("<script>alert(1)</script>", "$x^", "\\frac{", "a\nb\x00", "向日葵", "", "_hidden", "z" * 200)


def make_history(epochs: int, **changes: float) -> list[dict[str, float]]:
    row = {"train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 1.2, "val_accuracy": 0.4} | changes
    return [{"epoch": float(epoch)} | row for epoch in range(1, epochs + 1)]


@pytest.fixture(autouse=True)
def no_trace():
    """Figures warn of nothing and leave matplotlib's settings as they were."""
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert dict(matplotlib.rcParams) == before


@pytest.fixture
def path(tmp_path):
    return tmp_path / "figure.png"


def read_pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.std() > 1
    return pixels


@pytest.mark.parametrize("epochs", [1, 2, 200])
def test_history_of_any_length_is_drawn(path, epochs):
    figures.plot_history(make_history(epochs), path, "mini_resnet, seed 0")
    read_pixels(path)


def test_history_with_missing_values_is_drawn(path):
    figures.plot_history(make_history(3, val_accuracy=float("nan"), val_loss=float("inf")), path)
    read_pixels(path)


def test_a_figure_drawn_twice_is_the_same_file(tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    for path in (first, second):
        figures.plot_history(make_history(5), path)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("classes", [2, 5, 102])
def test_confusion_matrix_of_any_size_is_drawn(path, classes):
    matrix = np.eye(classes, dtype=int) * 9
    matrix[0, 1] = 1
    figures.plot_confusion(matrix, [f"class {i}" for i in range(classes)], path, "mini_resnet")
    read_pixels(path)


def test_confusion_matrix_with_odd_names_and_an_absent_class_is_drawn(path):
    matrix = np.zeros((len(ODD_NAMES), len(ODD_NAMES)), int)
    matrix[0, 1] = 3
    figures.plot_confusion(matrix, ODD_NAMES, path, "$odd$")
    read_pixels(path)


def test_a_hit_is_blue_and_an_empty_cell_white(path):
    def upper_left_cell(matrix: list[list[int]]) -> np.ndarray:
        figures.plot_confusion(np.array(matrix), ("a", "b"), path)
        pixels = read_pixels(path).astype(int)
        return pixels[int(0.35 * pixels.shape[0]), int(0.25 * pixels.shape[1])]

    red, _, blue = upper_left_cell([[5, 0], [0, 5]])
    assert blue > red + 50
    assert (upper_left_cell([[0, 5], [5, 0]]) > 240).all()


@pytest.mark.parametrize("models", [1, 40])
def test_curves_of_many_models_with_seeds_of_unequal_length_are_drawn(path, models):
    comparison_figures.plot_curves({f"m{i}": [make_history(3), make_history(2)] for i in range(models)}, path)
    read_pixels(path)


def test_accuracies_with_odd_names_are_drawn(path):
    count = len(ODD_NAMES)
    comparison_figures.plot_accuracy(
        ODD_NAMES, np.linspace(1, 0, count), [(max(0, a - 0.1), a) for a in np.linspace(1, 0, count)], path
    )
    read_pixels(path)


@pytest.mark.parametrize("models", [1, 100])
def test_costs_that_are_unknown_or_equal_are_drawn(path, models):
    counts, seconds = comparison_figures.COUNT_TICKS, comparison_figures.SECOND_TICKS
    costs = [
        comparison_figures.Cost("parameters", "parameters", [4e6] * models, counts, format_count),
        comparison_figures.Cost("MACs", "MACs", [None] * models, counts, format_count),
        comparison_figures.Cost("training time", "s", [10.0**i for i in range(models)], seconds, format_count),
    ]
    comparison_figures.plot_pareto([f"_m{i}" for i in range(models)], [0.5] * models, costs, path)
    read_pixels(path)


@pytest.mark.parametrize("models", [1, 30])
def test_reliability_of_many_models_is_drawn(path, models):
    bins = bin_by_confidence([0.1, 0.9, 1.0], [False, True, True])
    names = [f"m{i}" for i in range(models)]
    comparison_figures.plot_reliability(dict.fromkeys(names, bins), dict.fromkeys(names, 0.1), path)
    read_pixels(path)
