"""Figures of heatmaps over images, without global state: ``figure.savefig(path)`` writes them.

Text is drawn literally: no character in a class name is markup.
"""

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from deepbloom.data.conversion import orientation
from deepbloom.data.images import upright_rgb
from deepbloom.data.preprocessing import place_map
from deepbloom.errors import ConfigError
from deepbloom.explain.methods import METHODS
from deepbloom.sinks import printable

COLORMAP = LinearSegmentedColormap.from_list("evidence", ["#005AC8", "#00EBFF"])
"""Even steps of lightness, in hues that hardly any flower has: more evidence differs more from every ground."""
OPACITY = 0.85
"""Of the most evidence; it falls to 0 with the evidence."""
CONTOURS = (0.5, 0.2)
"""Shares of the evidence that lie within the lines, the outer line first."""
SCALE_LABEL = "evidence, from its least to its most"
NOTE = (
    "The lines hold 20 % and 50 % of the evidence. The scale shows its colors on the mean color of what lies beneath."
)
LINE_COLOR, INK, WARNING = "#333333", "#777777", "#C85000"
"""Of the contours' edges, of text, and of wrong predictions: text can be read on a white page and on a dark one."""

# Inches. A figure is laid out for reading; its resolution follows the image.
IMAGE_SIDE, TILE_SIDE, SMALLEST_WIDTH = 5.2, 2.7, 4.5
MARGIN, GAP, LINE, HEADING_LINE, HEADING_GAP = 0.2, 0.16, 0.2, 0.28, 0.08
BAR_WIDTH, BAR_LABELS, LONGEST_BAR = 0.16, 0.62, IMAGE_SIDE
SMALLEST_PIXELS, LARGEST_PIXELS = 520, 4096  # of a panel's longer side
SMALLEST_TILE, LARGEST_TILE = 351, 512
NAME_LENGTH = 90
COLUMNS = 5
"""Panels side by side in a comparison."""


@dataclass(frozen=True)
class Tile:
    """One panel of a figure."""

    image: Image.Image
    heatmap: np.ndarray | None
    """Shape (S, S), in [0, 1], of the network's input; None shows the image alone."""
    title: str = ""
    """Above the panel: a class, a model or a method."""
    caption: str = ""
    """Below the title, smaller: a confidence or the true class."""
    wrong: bool = False
    """Draws a frame and colors the title."""
    fit: str = "squash"
    """What made the image square for the network."""
    gray: bool = False
    """Shows the image under the heatmap in gray."""


@dataclass(frozen=True)
class Panel:
    """One map of an image."""

    heatmap: np.ndarray
    """Shape (S, S), float32, in [0, 1]."""
    network: str
    """The network's label."""
    method: str
    explained: str
    """The class, and the one it is compared with."""
    confidence: float
    """The probability of the class, in [0, 1]."""
    fit: str = "squash"
    """What made the image square for the network."""
    prediction: str = ""
    """The class that the network predicts."""


def overlay(
    image: Image.Image, heatmap: np.ndarray, opacity: float = OPACITY, fit: str = "squash", gray: bool = False
) -> Image.Image:
    """Return the image under its heatmap, upright, RGB, at the image's size.

    The image is rotated by its EXIF entry first, and the heatmap, shape (S, S), in [0, 1], resized to the part that the
    network saw; ``fit`` is what made the image square. ``opacity`` is the share of the color in the result where the
    heatmap is 1; it falls to 0 with the heatmap. With ``gray`` the image is gray.

    Raises
    ------
    ConfigError
        The opacity is out of range or the heatmap is not a map in [0, 1].
    """
    if not 0 <= opacity <= 1:
        raise ConfigError(f"opacity={opacity!r} is out of range: give a number from 0 (image) to 1 (heatmap).")
    heatmap = np.asarray(heatmap, dtype=np.float32)
    if heatmap.ndim != 2 or not heatmap.size or not (heatmap.min() >= 0 and heatmap.max() <= 1):
        raise ConfigError(f"A heatmap has shape (h, w) and values in [0, 1]; this one has shape {heatmap.shape}.")
    image = _ground(image, gray)
    colors = color_map(place_map(heatmap, image.size, fit))
    share = colors.getchannel("A").point([round(opacity * value) for value in range(256)])
    return Image.composite(colors.convert("RGB"), image, share)


def color_map(heatmap: np.ndarray) -> Image.Image:
    """Return a map, shape (H, W), in [0, 1], as an RGBA image as opaque as its values; NaN is transparent."""
    heatmap = np.nan_to_num(heatmap)
    return Image.fromarray(COLORMAP(heatmap, alpha=heatmap, bytes=True))


def contour_levels(heatmap: np.ndarray) -> list[float]:
    """Return the values at or above which the shares `CONTOURS` of a map's sum lie, increasing; none if it is even."""
    values = np.sort(heatmap, axis=None)[::-1].astype(float)
    sums = values.cumsum()
    levels = {float(values[np.searchsorted(sums, share * sums[-1])]) for share in CONTOURS}
    return sorted(level for level in levels if values[-1] < level < values[0])


def draw_panels(
    image: Image.Image, panels: Sequence[Panel], name: str = "", truth: str = "", gray: bool = False
) -> Figure:
    """Return a figure of an image and its maps by methods and networks side by side: methods in rows if they fit.

    There is at least one panel. They are ordered by method, and each method has equally many. ``name`` is the image's,
    ``truth`` its class if it is known; with ``gray`` the image under the maps is gray.
    """
    methods = len({panel.method for panel in panels})
    several_networks = len({panel.network for panel in panels}) > 1
    per_method = len(panels) // methods
    in_rows = methods > 1 < per_method < COLUMNS
    tiles: list[Tile | None] = [Tile(image, None, "image", truth)]
    for number, panel in enumerate(panels):
        if in_rows and number and number % per_method == 0:
            tiles.append(None)
        names = [METHODS[panel.method].title] * (methods > 1) + [panel.network] * several_networks
        explained = f"{panel.explained} · {100 * panel.confidence:.1f} %"
        wrong = bool(truth and panel.prediction) and panel.prediction != truth
        lines = [*([explained] if names else []), *([f"predicted {panel.prediction}, is {truth}"] if wrong else [])]
        title = " · ".join(names) or explained
        tiles.append(Tile(image, panel.heatmap, title, "; ".join(lines), wrong, panel.fit, gray))
    common = [name] + [panels[0].network] * (not several_networks) + [METHODS[panels[0].method].title] * (methods == 1)
    heading = " · ".join(textwrap.shorten(part, NAME_LENGTH, placeholder=" …") for part in common if part)
    if len(panels) == 1:
        dpi = min(max(*image.size, SMALLEST_PIXELS), LARGEST_PIXELS) / IMAGE_SIDE
        return _lay_out(tiles, 2, IMAGE_SIDE, dpi, heading)
    return draw_gallery(tiles, heading, columns=1 + per_method if in_rows else COLUMNS)


def draw_gallery(tiles: Sequence[Tile | None], title: str = "", columns: int = 4) -> Figure:
    """Return a figure of many images under their heatmaps, in rows of ``columns``; None leaves its place empty.

    Raises
    ------
    ConfigError
        There is no tile.
    """
    if not any(tiles):
        raise ConfigError("A gallery needs at least one image.")
    longest = max(max(tile.image.size) for tile in tiles if tile)
    dpi = min(max(longest, SMALLEST_TILE), LARGEST_TILE) / TILE_SIDE
    return _lay_out(tiles, columns, TILE_SIDE, dpi, title)


def encode(drawing: Figure | Image.Image) -> bytes:
    """Return a figure or an image as PNG."""
    content = io.BytesIO()
    write = drawing.savefig if isinstance(drawing, Figure) else drawing.save
    write(content, format="png")
    return content.getvalue()


def _lay_out(tiles: Sequence[Tile | None], columns: int, side: float, dpi: float, title: str) -> Figure:
    """Place tiles in rows with a color scale at the right; each image's longer side has at most ``side`` inches.

    Positions are in inches from the left and from the top, so that a panel has as many pixels as its image.
    """
    columns = min(columns, len(tiles))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    cell = max(_fit(tile.image, side)[0] for tile in tiles if tile)
    right = MARGIN + columns * (cell + GAP)
    width = max(right + BAR_WIDTH + BAR_LABELS + MARGIN, SMALLEST_WIDTH)
    heading = _wrap(title, width - 2 * MARGIN, 13, lines=3)
    heads = [LINE * max((len(_texts(tile, cell)) for tile in row if tile), default=0) for row in rows]
    heights = [max((_fit(tile.image, side)[1] for tile in row if tile), default=0) for row in rows]
    top = MARGIN + HEADING_LINE * len(heading) + (HEADING_GAP if heading else 0)
    below = sum(heads) + sum(heights) + GAP * (len(rows) - 1)
    mapped = [tile for tile in tiles if tile and tile.heatmap is not None]
    note = _wrap(NOTE, width - 2 * MARGIN, 8, lines=4) if mapped else []
    height = top + below + MARGIN + LINE * len(note)
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="none")

    def place(left: float, top: float, across: float, down: float) -> Axes:
        return figure.add_axes((left / width, 1 - (top + down) / height, across / width, down / height))

    def write(line: str, left: float, top: float, spacing: float, points: float, color: str) -> None:
        baseline = 1 - (top + 0.72 * spacing) / height
        figure.text(left / width, baseline, line, fontsize=points, color=color, parse_math=False)

    for number, line in enumerate(heading):
        write(line, MARGIN, MARGIN + HEADING_LINE * number, HEADING_LINE, 13, INK)
    bar_height = min(below - heads[0], LONGEST_BAR)
    bar_top = top + heads[0]
    for row, head, row_height in zip(rows, heads, heights, strict=True):
        top += head
        for column, tile in enumerate(row):
            if tile is None:
                continue
            left = MARGIN + column * (cell + GAP)
            texts = _texts(tile, cell)
            for number, (line, points, color) in enumerate(texts):
                write(line, left, top - LINE * (len(texts) - number), LINE, points, color)
            _show(place(left, top, *_fit(tile.image, side)), tile)
        top += row_height + GAP
    for number, line in enumerate(note):
        write(line, MARGIN, top - GAP / 2 + LINE * number, LINE, 8, INK)
    if mapped:
        _draw_scale(place(right, bar_top, BAR_WIDTH, bar_height), bar_height, mapped)
    return figure


def _texts(tile: Tile, width: float) -> list[tuple[str, int, str]]:
    """Return the lines above a tile, with their size in points and color."""
    color = WARNING if tile.wrong else INK
    return [(line, 10, color) for line in _wrap(tile.title, width, 10)] + [
        (line, 9, INK) for line in _wrap(tile.caption, width, 9)
    ]


def _show(axes: Axes, tile: Tile) -> None:
    panel = axes.get_window_extent()
    image = upright_rgb(tile.image)
    image.thumbnail((math.ceil(panel.width - 0.01), math.ceil(panel.height - 0.01)))
    shown = image if tile.heatmap is None else overlay(image, tile.heatmap, fit=tile.fit, gray=tile.gray)
    enlarged = panel.width > 1.01 * image.width
    axes.imshow(np.asarray(shown), aspect="auto", interpolation="bicubic" if enlarged else "auto")
    if tile.heatmap is not None:
        _draw_contours(axes, tile.heatmap, image.size, tile.fit)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=tile.wrong, color=WARNING, linewidth=2)


def _draw_contours(axes: Axes, heatmap: np.ndarray, size: tuple[int, int], fit: str) -> None:
    levels = contour_levels(heatmap)
    if not levels:
        return
    scale = min(1, max(heatmap.shape) / max(size))
    small = (max(2, round(scale * size[0])), max(2, round(scale * size[1])))
    placed = np.ma.masked_invalid(place_map(np.asarray(heatmap, np.float32), small, fit))
    across, down = ((np.arange(count) + 0.5) * whole / count - 0.5 for count, whole in zip(small, size, strict=True))
    for color, width in ((LINE_COLOR, 2.4), ("white", 1.2)):
        axes.contour(across, down, placed, levels, colors=color, linewidths=width)


def _draw_scale(axes: Axes, height: float, tiles: Sequence[Tile]) -> None:
    """Draw the colors of a map from 0 to 1 on the mean color of what lies beneath the maps."""
    grounds = [_ground(tile.image, tile.gray).resize((1, 1), Image.Resampling.BOX) for tile in tiles]
    ground = np.mean([np.asarray(mean)[0, 0] for mean in grounds], axis=0).round().astype(np.uint8)
    evidence = np.linspace(1, 0, 256, dtype=np.float32)[:, None].repeat(256, axis=1)
    colors = overlay(Image.fromarray(np.tile(ground, (256, 256, 1))), evidence)
    axes.imshow(np.asarray(colors)[:, :1], aspect="auto", extent=(0, 1, 0, 1))
    axes.yaxis.set_ticks_position("right")
    axes.yaxis.set_label_position("right")
    axes.set_xticks([])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.tick_params(labelsize=9, labelcolor=INK, length=3, color=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if len(_wrap(SCALE_LABEL, height, 9)) == 1:
        axes.set_ylabel(SCALE_LABEL, size=9, color=INK)


def _ground(image: Image.Image, gray: bool) -> Image.Image:
    upright = upright_rgb(image)
    return upright.convert("L").convert("RGB") if gray else upright


def _fit(image: Image.Image, side: float) -> tuple[float, float]:
    """Return width and height of an upright image whose longer side is ``side``."""
    sideways = orientation(image) >= 5
    width, height = image.size[::-1] if sideways else image.size
    return side * width / max(width, height), side * height / max(width, height)


def _wrap(text: str, width: float, points: float, lines: int = 2) -> list[str]:
    """Return ``text``, printable, in at most ``lines`` lines that fit ``width`` inches, cut off with an ellipsis."""
    characters = max(int(72 * width / (0.58 * points)), 4)
    return textwrap.wrap(printable(text), characters, max_lines=lines, placeholder=" …")
