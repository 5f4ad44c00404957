"""Figures show the numbers they are given, at any size and with odd names, and leave no state behind."""

import warnings
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from PIL import Image

from deepbloom.report import group_plots
from deepbloom.report.formatting import format_count, shorten, shorten_apart
from deepbloom.report.run_plots import plot_confusion, plot_history

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


def is_inside(axis, values, which="y"):
    low, high = sorted(axis.get_ylim() if which == "y" else axis.get_xlim())
    return all(low <= value <= high for value in np.ravel(values))


def boxes_of(texts):
    """Return the boxes of texts in pixels."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        return [text.get_window_extent() for text in texts]


@pytest.mark.parametrize("epochs", [1, 2, 200])
def test_history_shows_every_epoch_and_marks_the_best(path, drawn, epochs):
    history = make_history(epochs)
    history[epochs // 2]["val_accuracy"] = 0.6
    plot_history(history, path, epochs // 2 + 1, "mini_resnet, seed 0")
    loss, accuracy = drawn
    for axis, kind in ((loss, "loss"), (accuracy, "accuracy")):
        train, val, best = axis.lines
        for line, split in ((train, "train"), (val, "val")):
            assert line.get_xdata().tolist() == list(range(1, epochs + 1))
            assert line.get_ydata().tolist() == [row[f"{split}_{kind}"] for row in history]
            assert is_inside(axis, line.get_ydata())
            assert is_inside(axis, line.get_xdata(), "x")
        assert best.get_xdata()[0] == epochs // 2 + 1
        assert best.get_label() == f"best epoch ({epochs // 2 + 1})"
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy")
    assert loss.figure.get_suptitle() == "mini_resnet, seed 0"
    with Image.open(path) as image:
        assert image.size == (1170, 494)  # 9 x 3.8 inches at 130 dots per inch


def test_a_figure_drawn_twice_is_the_same_file(tmp_path):
    first, second, other = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"
    for path, loss in ((first, 1.0), (second, 1.0), (other, 1.5)):
        plot_history(make_history(5, train_loss=loss), path, 1)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()


def darkness(axis):
    """Return how far each cell of a confusion matrix is from white: shape (C, C)."""
    return 3 - np.asarray(axis.images[0].get_array())[..., :3].sum(axis=2)


@pytest.mark.parametrize("classes", [2, 5, 102])
def test_a_known_confusion_is_the_darkest_cell_beside_the_diagonal(path, drawn, classes):
    matrix = np.eye(classes, dtype=int) * 9
    matrix[0, 1] = 3
    matrix[1, 0] = 1
    plot_confusion(matrix, [f"class {i}" for i in range(classes)], path, "mini_resnet")
    axis = drawn[0]
    shades = darkness(axis)
    mistakes = np.where(np.eye(classes, dtype=bool), 0, shades)
    assert np.unravel_index(mistakes.argmax(), mistakes.shape) == (0, 1)
    assert mistakes[1, 0] > 0.2
    mistakes[:2, :2] = 0
    assert mistakes.max() == 0
    assert axis.get_title().endswith(f"color: share of the true class; {9 * classes + 4} predictions")
    numbers = {t.get_position()[::-1]: t.get_text() for t in axis.texts if t.get_text().isdigit()}
    written = {place: str(number) for place, number in np.ndenumerate(matrix) if number}
    assert numbers == (written if classes <= 20 else {})


def test_correct_cells_are_blue_wrong_ones_orange_and_empty_ones_white(path, drawn):
    plot_confusion([[5, 0], [2, 3]], ("a", "b"), path)
    cells = np.asarray(drawn[0].images[0].get_array())
    assert cells[0, 0, 2] > cells[0, 0, 0] + 0.2
    assert cells[1, 0, 0] > cells[1, 0, 2] + 0.2
    assert cells[0, 1].tolist() == [1, 1, 1, 1]


def test_cells_compare_shares_not_counts(path, drawn):
    """Half of a class of 4 is as dark as half of a class of 400."""
    plot_confusion([[2, 2], [200, 200]], ("rare", "common"), path)
    shades = darkness(drawn[0])
    assert shades[0, 1] == shades[1, 0]
    assert shades[0, 0] == shades[1, 1]


def test_odd_class_names_are_drawn_as_they_are_inside_the_figure(path, drawn):
    matrix = np.zeros((len(ODD_NAMES), len(ODD_NAMES)), int)
    matrix[0, 1] = 3
    plot_confusion(matrix, ODD_NAMES, path, "$odd$")
    axis = drawn[0]
    names = [text.get_text() for text in axis.texts if not text.get_text().isdigit()]
    assert names[::2] == names[1::2] == [shorten(name, 24) for name in ODD_NAMES]
    boxes = boxes_of(axis.texts)
    width, height = axis.figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)


@pytest.mark.parametrize("models", [1, 40])
def test_curves_show_the_first_models_with_a_band_as_long_as_the_shortest_run(path, drawn, models):
    runs = [make_history(3), make_history(2, val_accuracy=0.8)]
    group_plots.plot_curves({f"m{i}": runs for i in range(models)}, path)
    shown = min(models, group_plots.MAX_LINES)
    for axis in drawn:
        assert [line.get_label() for line in axis.lines] == [f"m{i}" for i in range(shown)]
        assert all(line.get_xdata().tolist() == [1, 2] for line in axis.lines)
        assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axis.lines}) == shown
    band = drawn[3].collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.4, 0.8)


def test_accuracies_with_odd_names_stand_one_below_the_other(path, drawn):
    accuracies = np.linspace(1, 0, len(ODD_NAMES)).tolist()
    group_plots.plot_accuracy(ODD_NAMES, accuracies, [(max(0, a - 0.1), a) for a in accuracies], path)
    (axis,) = drawn
    labels = axis.texts[::2]
    assert [label.get_text() for label in labels] == [shorten(name, 40) for name in ODD_NAMES]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [float(dot.get_ydata()[0]) for dot in dots] == list(range(len(ODD_NAMES)))
    assert is_inside(axis, accuracies, "x")
    boxes, notes = boxes_of(labels), boxes_of(axis.texts[1::2])
    assert not any(upper.overlaps(lower) for upper, lower in pairwise(boxes))
    assert not any(label.overlaps(note) for label, note in zip(boxes, notes, strict=True))


@pytest.mark.parametrize("models", [1, 100])
def test_costs_that_are_unknown_or_equal_are_left_out_or_drawn_together(path, drawn, models):
    seconds = [10.0**i for i in range(models)]
    costs = [
        group_plots.Cost("parameters", "parameters", [4e6] * models, group_plots.COUNT_TICKS, format_count),
        group_plots.Cost("MACs", "MACs", [None] * models, group_plots.COUNT_TICKS, format_count),
        group_plots.Cost("training time", "s", seconds, group_plots.SECOND_TICKS, format_count),
    ]
    group_plots.plot_pareto([f"_m{i}" for i in range(models)], [0.5] * models, costs, path)
    points = [[line for line in axis.lines if line.get_linestyle() == "None"] for axis in drawn]
    assert [len(found) for found in points] == [models, 0, models]
    for axis, found in zip(drawn, points, strict=True):
        assert is_inside(axis, [line.get_xdata() for line in found], "x")
        assert is_inside(axis, [line.get_ydata() for line in found])
    filled = [line for line in points[2][: group_plots.MAX_LINES] if line.get_markerfacecolor() != "white"]
    assert filled == points[2][:1]  # of equally accurate models, the cheapest alone is on the front


def test_costs_go_across_accuracy_upwards_and_the_front_is_filled(path, drawn):
    cost = group_plots.Cost("MACs", "operations", [1e6, 4e6, 2e6], group_plots.COUNT_TICKS, format_count)
    group_plots.plot_pareto(["small", "large", "poor"], [0.7, 0.9, 0.6], [cost], path)
    (axis,) = drawn
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_xscale()) == ("operations", "test accuracy", "log")
    points = {line.get_label(): line for line in axis.lines if line.get_linestyle() == "None"}
    places = {name: (float(line.get_xdata()[0]), float(line.get_ydata()[0])) for name, line in points.items()}
    assert places == {"small": (1e6, 0.7), "large": (4e6, 0.9), "poor": (2e6, 0.6)}
    assert [name for name, line in points.items() if line.get_markerfacecolor() == "white"] == ["poor"]


def test_accuracies_stand_in_order_from_the_top_with_their_names_and_intervals(path, drawn):
    group_plots.plot_accuracy(["best", "worst"], [0.9, 0.5], [(0.8, 0.95), (0.4, 0.6)], path)
    (axis,) = drawn
    assert axis.yaxis_inverted()
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [(float(d.get_xdata()[0]), float(d.get_ydata()[0])) for d in dots] == [(0.9, 0), (0.5, 1)]
    notes = ["best", "90.0 %  [80.0, 95.0]", "worst", "50.0 %  [40.0, 60.0]"]
    assert [text.get_text() for text in axis.texts] == notes


def test_curves_draw_the_mean_of_each_column_in_its_panel(path, drawn):
    runs = [make_history(3, train_loss=1.0, val_accuracy=0.4), make_history(3, train_loss=3.0, val_accuracy=0.8)]
    group_plots.plot_curves({"net": runs}, path)
    means = {axis.get_title(): axis.lines[0].get_ydata().tolist() for axis in drawn}
    expected = {"Training loss": 2.0, "Validation loss": 1.2, "Training accuracy": 0.5, "Validation accuracy": 0.6}
    assert means == {title: pytest.approx([value] * 3) for title, value in expected.items()}
    assert {axis.get_xlabel() for axis in drawn} == {"epoch"}


def test_two_long_names_have_two_legend_entries(path, drawn):
    names = shorten_apart(["net (" + "a" * 60 + end + "b" * 60 + ")" for end in "xy"])
    group_plots.plot_curves({name: [make_history(2)] for name in names}, path)
    assert len(set(drawn[0].get_legend_handles_labels()[1])) == 2
