"""Every figure, of one run or of many, is drawn for small, large and odd inputs, and leaves no state behind."""

import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from deepbloom.metrics import bin_by_confidence
from deepbloom.report import comparison_figures, figures
from deepbloom.report.formatting import format_count, shorten_apart
from deepbloom.report.statistics import wilson_interval

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
def drawn(monkeypatch):
    """The axes of each figure when it is written: a list that fills while figures are drawn."""
    axes = []
    write = Figure.savefig

    def keep(figure, *arguments, **options):
        write(figure, *arguments, **options)
        axes.extend(figure.axes)

    monkeypatch.setattr(Figure, "savefig", keep)
    return axes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "figure.png"


def read_pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
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
    comparison_figures.plot_reliability(
        dict.fromkeys(names, bins), dict.fromkeys(names, 0.1), dict.fromkeys(names, 1), path
    )
    read_pixels(path)


def test_reliability_has_confidence_across_accuracy_upwards_and_an_interval_over_images(path, drawn):
    confidences, correct = np.repeat([0.9, 0.3], [40, 20]), np.repeat([True, False, True, False], [30, 10, 5, 15])
    bins = bin_by_confidence(np.tile(confidences, 2), np.tile(correct, 2))
    comparison_figures.plot_reliability({"net": bins}, {"net": 0.125}, {"net": 2}, path)
    (axis,) = drawn
    assert axis.get_title() == "net\nECE 12.5 %"
    dots, lines = axis.collections[1], axis.collections[0]
    np.testing.assert_allclose(dots.get_offsets(), [[0.3, 5 / 20], [0.9, 30 / 40]])
    assert dots.get_sizes()[1] > dots.get_sizes()[0]
    low, high = wilson_interval([5, 30], [20, 40])
    np.testing.assert_allclose([line[:, 1] for line in lines.get_segments()], np.stack([low, high], 1))


def test_costs_go_across_accuracy_upwards_and_the_front_is_filled(path, drawn):
    cost = comparison_figures.Cost("MACs", "operations", [1e6, 4e6, 2e6], comparison_figures.COUNT_TICKS, format_count)
    comparison_figures.plot_pareto(["small", "large", "poor"], [0.7, 0.9, 0.6], [cost], path)
    (axis,) = drawn
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_xscale()) == ("operations", "test accuracy", "log")
    points = {line.get_label(): line for line in axis.lines if line.get_linestyle() == "None"}
    places = {name: (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for name, line in points.items()}
    assert places == {"small": (1e6, 0.7), "large": (4e6, 0.9), "poor": (2e6, 0.6)}
    assert [name for name, line in points.items() if line.get_markerfacecolor() == "white"] == ["poor"]


def test_accuracies_stand_in_order_from_the_top_with_their_names_and_intervals(path, drawn):
    comparison_figures.plot_accuracy(["best", "worst"], [0.9, 0.5], [(0.8, 0.95), (0.4, 0.6)], path)
    (axis,) = drawn
    assert [label.get_text() for label in axis.get_yticklabels()] == ["best", "worst"]
    assert axis.yaxis_inverted()
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [(float(d.get_xdata()[0]), float(d.get_ydata()[0])) for d in dots] == [(0.9, 0), (0.5, 1)]
    assert [text.get_text() for text in axis.texts] == ["90.0 %  [80.0, 95.0]", "50.0 %  [40.0, 60.0]"]


def test_curves_draw_the_mean_of_each_column_in_its_panel(path, drawn):
    runs = [make_history(3, train_loss=1.0, val_accuracy=0.4), make_history(3, train_loss=3.0, val_accuracy=0.8)]
    comparison_figures.plot_curves({"net": runs}, path)
    means = {axis.get_title(): axis.lines[0].get_ydata().tolist() for axis in drawn}
    expected = {"Training loss": 2.0, "Validation loss": 1.2, "Training accuracy": 0.5, "Validation accuracy": 0.6}
    assert means == {title: pytest.approx([value] * 3) for title, value in expected.items()}
    assert {axis.get_xlabel() for axis in drawn} == {"epoch"}


def test_two_long_names_have_two_legend_entries(path, drawn):
    names = shorten_apart(["net (" + "a" * 60 + end + "b" * 60 + ")" for end in "xy"])
    comparison_figures.plot_curves({name: [make_history(2)] for name in names}, path)
    assert len(set(drawn[0].get_legend_handles_labels()[1])) == 2
