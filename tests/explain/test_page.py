"""The figures of explain.html show the numbers they are given, at their places."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepbloom.explain.faithfulness import CURVE_FRACTIONS
from deepbloom.explain.methods import METHODS
from deepbloom.explain.page import CURVES, name_kind, plot_curves, plot_measures, plot_randomization
from deepbloom.explain.summary import CONTROLS, MEASURES, Interval


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of each figure when it is written."""
    axes: list[Axes] = []
    write = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        write(figure, *arguments, **options)
        axes.extend(figure.axes)

    monkeypatch.setattr(Figure, "savefig", keep)
    return axes


def lines(axis: Axes) -> list[tuple[list[float], list[float]]]:
    return [tuple(np.atleast_1d(values).tolist() for values in line.get_data()) for line in axis.lines]


def test_each_measure_has_a_panel_with_a_mean_and_an_interval_per_kind(drawn: list[Axes], tmp_path: Path) -> None:
    means = {
        "gradcam": {"deletion_area": Interval(0.2, 0.1, 0.4, 5), "iou": Interval(0.5, 0.4, 0.6, 5)},
        "center": {"deletion_area": Interval(0.3, 0.2, 0.5, 5)},
    }
    plot_measures(means, tmp_path / "figure.png")
    deletion, iou = drawn
    assert lines(deletion) == [([0.1, 0.4], [0, 0]), ([0.2], [0]), ([0.2, 0.5], [1, 1]), ([0.3], [1])]
    assert lines(iou) == [([0.4, 0.6], [0, 0]), ([0.5], [0])]
    assert [axis.get_title() for axis in drawn] == ["deletion ↓", "IoU ↑"]
    assert [label.get_text() for label in deletion.get_yticklabels()] == ["Grad-CAM", "a blob in the center"]


def test_curves_stand_at_the_shares_of_the_pixels(drawn: list[Axes], tmp_path: Path) -> None:
    curves = {
        kind: {name: np.linspace(start, 0, len(shares)).tolist() for name, shares in CURVE_FRACTIONS.items()}
        for kind, start in (("gradcam", 0.9), ("random_maps", 0.6))
    }
    plot_curves(curves, tmp_path / "figure.png")
    for axis, name in zip(drawn, CURVES, strict=True):
        assert lines(axis) == [(list(CURVE_FRACTIONS[name]), curves[kind][name]) for kind in curves]
        assert axis.get_title() == CURVES[name][0]
    assert [text.get_text() for text in drawn[0].figure.legends[0].get_texts()] == ["Grad-CAM", "random maps"]


def test_randomization_starts_at_the_trained_network(drawn: list[Axes], tmp_path: Path) -> None:
    correlations = np.array([[0.8, 0.6], [0.1, -0.1]])
    plot_randomization(["head", "stem"], correlations, tmp_path / "figure.png")
    (axis,) = drawn
    single, mean = lines(axis)[1:3], lines(axis)[3]
    assert single == [([0, 1, 2], [1, 0.8, 0.1]), ([0, 1, 2], [1, 0.6, -0.1])]
    assert mean == ([0, 1, 2], pytest.approx([1, 0.7, 0]))
    assert [label.get_text() for label in axis.get_xticklabels()] == ["trained", "head", "stem"]


def test_every_kind_of_map_and_every_curve_has_a_name() -> None:
    assert len({name_kind(kind) for kind in (*METHODS, *CONTROLS)}) == len(METHODS) + len(CONTROLS)
    assert CURVES.keys() == CURVE_FRACTIONS.keys()
    assert len({measure.title for measure in MEASURES.values()}) == len(MEASURES)
