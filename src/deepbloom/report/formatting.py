"""Numbers and names as people read them."""

import math
from collections import Counter
from collections.abc import Sequence


def format_count(count: float) -> str:
    """Return a count in at most three figures: ``870``, ``20.1 k``, ``4.0 M``, ``1.8 G``."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= factor * 0.9995:
            value = count / factor
            return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.1f} {unit}"
    return f"{count:.0f}"


def format_seconds(seconds: float) -> str:
    """Return a duration in its two largest units: ``0.8 s``, ``42 s``, ``1 min 12 s``, ``3 h 5 min``, ``2 d``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    large, small, step, per_large = "min", "s", 1, 60
    if whole >= 86_370:
        large, small, step, per_large = "d", "h", 3600, 24
    elif whole >= 3600:
        large, small, step, per_large = "h", "min", 60, 60
    first, rest = divmod(round(whole / step), per_large)
    return f"{first} {large} {rest} {small}" if rest else f"{first} {large}"


def format_milliseconds(milliseconds: float) -> str:
    """Return a short time in three figures: ``0.84 ms``, ``12.3 ms``, ``1.2 s``."""
    if milliseconds >= 999.5:
        return f"{milliseconds / 1000:.1f} s"
    digits = 2 if milliseconds < 9.995 else 1 if milliseconds < 99.95 else 0
    return f"{milliseconds:.{digits}f} ms"


def format_bytes(size: float) -> str:
    """Return a size in decimal units: ``912 B``, ``4.1 kB``, ``900 MB``, ``1.3 GB``."""
    text = format_count(size)
    number, _, unit = text.partition(" ")
    return f"{number} {unit}B"


def format_percent(fraction: float, digits: int = 1) -> str:
    """Return a fraction as ``91.3 %``."""
    return f"{100 * fraction:.{digits}f} %"


def format_points(difference: float) -> str:
    """Return a difference of two fractions in percentage points, with a sign: ``+1.2``, ``−0.4``, ``+0.03``, ``0.0``.

    A difference below 0.05 gets more decimals, so that only 0 (below 0.0005) reads as 0.
    """
    points = round(100 * difference, next((digits for digits in (1, 2, 3) if round(100 * difference, digits)), 1))
    return f"{'+' if points > 0 else '−'}{abs(points)}" if points else "0.0"


def format_p_value(p_value: float) -> str:
    """Return a p value with three decimals, which never rounds it across 0.05; ``< 0.001`` below that."""
    if p_value < 0.001:
        return "< 0.001"
    text = f"{p_value:.3f}"
    return "< 0.05" if p_value < 0.05 <= float(text) else text


def format_rate(per_second: float) -> str:
    """Return a rate per second in three figures, without its unit."""
    digits = max(0, 2 - math.floor(math.log10(per_second))) if per_second > 0 else 0
    return f"{per_second:,.{min(digits, 2)}f}".replace(",", " ")


def shorten(name: str, limit: int = 48) -> str:
    """Return ``name`` on one line of at most ``limit`` printable characters, the middle replaced by an ellipsis."""
    line = " ".join("".join(c if c.isprintable() else " " for c in name).split()) or "(no name)"
    if len(line) <= limit:
        return line
    tail = (limit - 1) // 3
    return f"{line[: limit - 1 - tail]}…{line[-tail:]}"


def shorten_apart(names: Sequence[str], limit: int = 48) -> list[str]:
    """Return the names shortened; those that would then be alike begin with their number among all: ``3. name``."""
    short = [shorten(name, limit) for name in names]
    counts = Counter(short)
    return [
        line if counts[line] == 1 else f"{place}. {shorten(name, limit - len(f'{place}. '))}"
        for place, (line, name) in enumerate(zip(short, names, strict=True), 1)
    ]


def count_of(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 run``, ``2 runs``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
