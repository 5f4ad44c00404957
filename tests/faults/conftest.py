"""A count of what was tried, printed at the end: the figures of docs/reliability.md are copied from there."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

FIGURES = pytest.StashKey[Counter[str]]()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Add to a figure: ``tally("kills survived")`` or ``tally("files tried", 64)``."""
    figures = request.config.stash.setdefault(FIGURES, Counter())

    def add(figure: str, count: int = 1) -> None:
        figures[figure] += count

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(FIGURES, Counter())
    if figures:
        terminalreporter.section("faults")
        for figure, count in sorted(figures.items()):
            terminalreporter.write_line(f"{count:6d} {figure}")


@pytest.fixture(autouse=True, scope="module")
def _no_plots() -> Iterator[None]:
    """Draw no plots."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("plot_history", "plot_confusion"):
            patch.setattr(f"deepbloom.commands.train.{name}", lambda *_: None)
        yield
