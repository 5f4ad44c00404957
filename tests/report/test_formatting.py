"""Numbers and names as people read them."""

import html
import re

import pytest

from deepbloom.report import formatting
from deepbloom.report.pages import escape


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (870, "870"),
        (999, "999"),
        (1000, "1.0 k"),
        (20_123, "20.1 k"),
        (999_960, "1.0 M"),
        (4_012_345, "4.0 M"),
        (123_456_789, "123 M"),
        (1_819_000_000, "1.8 G"),
    ],
)
def test_counts_have_at_most_three_figures(count, text):
    assert formatting.format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (72, "1 min 12 s"),
        (3599.7, "1 h"),
        (11_100, "3 h 5 min"),
        (86_399, "1 d"),
        (176_400, "2 d 1 h"),
    ],
)
def test_durations_have_two_units(seconds, text):
    assert formatting.format_seconds(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(912, "912 B"), (4_100, "4.1 kB"), (9e8, "900 MB"), (1.3e9, "1.3 GB")])
def test_sizes_are_decimal(size, text):
    assert formatting.format_bytes(size) == text


@pytest.mark.parametrize(
    ("difference", "text"), [(0.0123, "+1.2"), (-0.004, "−0.4"), (-0.0004, "−0.04"), (1e-9, "0.0"), (0.0, "0.0")]
)
def test_differences_are_points_with_a_sign(difference, text):
    assert formatting.format_points(difference) == text


@pytest.mark.parametrize(
    ("p_value", "text"), [(1e-9, "< 0.001"), (0.0012, "0.001"), (0.04996, "< 0.05"), (0.05, "0.050"), (0.814, "0.814")]
)
def test_p_values_keep_their_side_of_the_threshold(p_value, text):
    assert formatting.format_p_value(p_value) == text


@pytest.mark.parametrize(("rate", "text"), [(0, "0"), (3.14159, "3.14"), (210.5, "210"), (12_345, "12 345")])
def test_rates_have_three_figures(rate, text):
    assert formatting.format_rate(rate) == text


def test_names_are_short_printable_and_on_one_line():
    assert formatting.shorten("sun\nflower\x00\ud800 x") == "sun flower x"
    assert formatting.shorten(" \n") == "(no name)"
    long = formatting.shorten("a" * 30 + "b" * 30, 20)
    assert len(long) == 20
    assert long.startswith("aaa")
    assert long.endswith("bbb")
    assert "…" in long


def test_names_that_would_be_shortened_to_the_same_are_numbered():
    names = ["net (" + "a" * 60 + end + "b" * 60 + ")" for end in "xy"]
    assert formatting.shorten(names[0]) == formatting.shorten(names[1])
    first, other, second = formatting.shorten_apart([names[0], "net", names[1]])
    assert (first[:6], other, second[:6]) == ("1. net", "net", "3. net")
    assert max(len(first), len(second)) <= 48


@pytest.mark.parametrize(
    "text", ["# Owned", "__rose__", "_lily_", "a\n\n# Second\n\n- item\n\n1. one", "a\n---", "+ x", "a_b_", "2) x"]
)
def test_a_text_stays_a_text_in_markdown(text):
    """Read by an independent renderer: paragraphs of exactly the words, and nothing else."""
    shown = pytest.importorskip("markdown").markdown(escape(text))
    assert set(re.findall(r"<(\w+)", shown)) == {"p"}
    assert html.unescape(re.sub(r"<[^>]+>", "", shown)).split() == text.split()


@pytest.mark.parametrize("text", ["efficientnet_lite0_partial", "-0.5", "3.5 points", "+1.2", "C#"])
def test_harmless_signs_are_left_alone(text):
    assert escape(text) == text


def test_an_underlined_heading_stays_a_text():
    assert escape("a\n===") == "a\n\\==="
