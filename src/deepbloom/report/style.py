"""The style of all figures, and a figure that is written to a PNG and leaves no state behind.

Colors are those of Okabe and Ito (2008), which color-blind people can tell apart; markers and dashes repeat the
distinction. Names are drawn as they are: no character in them is markup.
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from deepbloom.runs import files as atomic_files

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX<>"
DASHES = ("-", "--", ":")
INK, FAINT = "#333333", "#999999"
STYLE: Any = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "text.parse_math": False,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}

PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.4g} %")

History = Sequence[Mapping[str, float]]


@contextmanager
def open_figure(path: Path, width: float, height: float, layout: Any = "constrained") -> Iterator[Figure]:
    """Yield a figure of ``width`` by ``height`` inches, and write it as PNG when done."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout=layout)
        yield figure
        content = io.BytesIO()
        figure.savefig(content, dpi=130, metadata={"Software": None})
        atomic_files.write_bytes(path, content.getvalue())


def column(history: History, name: str) -> NDArray[np.float64]:
    """Return one column of a history: float64, shape (epochs,)."""
    return np.array([row[name] for row in history], dtype=np.float64)


def space_markers(epochs: NDArray[np.float64]) -> int:
    """Return the distance between markers in epochs, for about 15 markers."""
    return max(1, len(epochs) // 15)


def label_epochs(axis: Axes, kind: str, epochs: NDArray[np.float64]) -> None:
    """Label an axis of ``loss`` or ``accuracy`` by epoch."""
    axis.set_xlabel("epoch")
    axis.set_ylabel(kind)
    margin = 0.5 + 0.02 * len(epochs)
    axis.set_xlim(epochs.min() - margin, epochs.max() + margin)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if kind == "accuracy":
        axis.yaxis.set_major_formatter(PERCENT)
    else:
        axis.set_ylim(bottom=0)
