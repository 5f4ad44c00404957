"""What tests of figures share."""

import pytest
from matplotlib.figure import Figure


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
