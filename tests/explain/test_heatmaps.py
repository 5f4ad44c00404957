"""Figures keep the image's size and orientation, and their text fits."""

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from deepbloom.errors import ConfigError
from deepbloom.explain.figures import COLORMAP, Tile, draw_gallery, draw_heatmap, overlay

LONG_NAME = (
    "Rhododendron arboreum subsp. cinnamomeum, the tree with $red$ flowers_and {cinnamon} bark beneath its leaves"
)
SIZES = [(64, 48), (48, 64), (400, 60), (60, 400), (900, 700)]


def draw_image(size: tuple[int, int] = (64, 48)) -> Image.Image:
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = np.stack([255 * columns / size[0], 255 * rows / size[1], np.full(rows.shape, 90.0)], 2)
    return Image.fromarray(pixels.astype(np.uint8))


def draw_map() -> np.ndarray:
    rows, columns = np.mgrid[0:16, 0:16]
    return np.exp(-((rows - 4) ** 2 + (columns - 12) ** 2) / 8).astype(np.float32)


def render(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer)


def assert_nothing_is_clipped(figure: Figure) -> None:
    figure.canvas.draw()
    width, height = figure.get_size_inches() * figure.dpi
    texts = [*figure.texts, *(label for axes in figure.axes for label in (axes.yaxis.label, *axes.get_yticklabels()))]
    for text in texts:
        box = text.get_window_extent()
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside or not text.get_text(), text


def test_an_overlay_has_the_size_of_the_image() -> None:
    for size in SIZES:
        result = overlay(draw_image(size), draw_map())
        assert (result.size, result.mode) == (size, "RGB")


@pytest.mark.parametrize("size", [(60, 20), (20, 60)])
def test_an_overlay_colors_only_what_the_network_saw(size: tuple[int, int]) -> None:
    image = draw_image(size)
    cropped = np.asarray(overlay(image, draw_map(), fit="crop"))
    square = image.crop((20, 0, 40, 20) if size[0] > size[1] else (0, 20, 20, 40))
    expected = image.copy()
    expected.paste(overlay(square, draw_map()), (20, 0) if size[0] > size[1] else (0, 20))
    assert np.array_equal(cropped, np.asarray(expected))
    padded = np.asarray(overlay(image, np.ones((60, 60), np.float32), fit="pad"))
    assert np.array_equal(padded, np.asarray(overlay(image, np.ones((60, 60), np.float32))))


def test_an_overlay_mixes_image_and_colors_by_opacity() -> None:
    image, heatmap = draw_image(), draw_map()
    pixels = np.asarray(image).astype(float)
    assert np.array_equal(np.asarray(overlay(image, heatmap, 0)), pixels)
    colors = np.asarray(overlay(image, heatmap, 1)).astype(float)
    mixed = np.asarray(overlay(image, heatmap, 0.3)).astype(float)
    assert np.abs(mixed - (0.7 * pixels + 0.3 * colors)).max() <= 1
    brightest = np.unravel_index(colors.sum(2).argmax(), colors.shape[:2])
    assert abs(brightest[0] - 4.5 * 48 / 16) < 3
    assert abs(brightest[1] - 12.5 * 64 / 16) < 3


def test_an_image_is_rotated_upright() -> None:
    image = draw_image((64, 48))
    image.getexif()[0x0112] = 6  # to be turned a quarter clockwise
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", exif=image.getexif())
    turned = Image.open(buffer)
    assert overlay(turned, draw_map()).size == (48, 64)
    figure = draw_heatmap(turned, draw_map(), "rose", 0.5)
    panel = figure.axes[0].get_window_extent()
    assert panel.height / panel.width == pytest.approx(64 / 48, rel=0.01)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["rose", LONG_NAME])
def test_nothing_is_clipped(size: tuple[int, int], name: str) -> None:
    assert_nothing_is_clipped(draw_heatmap(draw_image(size), draw_map(), name, 0.987))
    assert_nothing_is_clipped(draw_gallery([Tile(draw_image(size), draw_map(), name, name, wrong=True)] * 3, name))


def test_a_panel_shows_the_image_pixel_by_pixel() -> None:
    figure = draw_heatmap(draw_image((900, 700)), draw_map(), "rose", 0.5)
    for axes in figure.axes[:2]:
        panel = axes.get_window_extent()
        assert (panel.width, panel.height) == pytest.approx((900, 700), abs=0.01)
    left = figure.axes[0].get_window_extent()
    image = np.asarray(render(figure).convert("RGB")).astype(float)
    top = image.shape[0] - round(left.y1)
    shown = image[top + 5 : top + 695, round(left.x0) + 5 : round(left.x0) + 895]
    assert np.abs(shown - np.asarray(draw_image((900, 700)))[5:695, 5:895]).max() <= 3


@pytest.mark.parametrize(("side", "shown"), [(64, 520), (3000, 3000), (6000, 4096)])
def test_a_single_heatmap_keeps_the_pixels_of_a_photograph(side: int, shown: int) -> None:
    figure = draw_heatmap(draw_image((side, 40)), draw_map(), "rose", 0.5)
    assert figure.axes[1].get_window_extent().width == pytest.approx(shown, abs=0.01)
    assert figure.axes[1].images[0].get_array().shape[1] == min(side, shown)


@pytest.mark.parametrize(("side", "shown"), [(64, 351), (400, 400), (900, 512)])
def test_panels_of_a_gallery_keep_up_to_512_pixels(side: int, shown: int) -> None:
    figure = draw_gallery([Tile(draw_image((side, 60)), draw_map()), Tile(draw_image((50, 50)), None)])
    assert figure.axes[0].get_window_extent().width == pytest.approx(shown, abs=0.01)
    assert figure.axes[0].images[0].get_array().shape[1] == min(side, shown)


def test_class_and_confidence_are_written_as_they_are() -> None:
    figure = draw_heatmap(draw_image((500, 300)), draw_map(), "$x_1$ & {rose}", 0.987)
    assert [text.get_text() for text in figure.texts] == ["$x_1$ & {rose} · 98.7 %"]
    assert not figure.texts[0].get_parse_math()
    assert LONG_NAME.split(",")[0] in " ".join(
        text.get_text() for text in draw_heatmap(draw_image(), draw_map(), LONG_NAME, 0.1).texts
    )


def test_a_scale_says_what_the_colors_mean() -> None:
    scale = draw_heatmap(draw_image((500, 400)), draw_map(), "rose", 0.5).axes[-1]
    assert [label.get_text() for label in scale.get_yticklabels()] == ["0", "0.5", "1"]
    assert scale.get_ylabel() == "evidence, from its least to its most"


def measure_lightness(colormap: str) -> np.ndarray:
    """Return CIE L* of 33 colors, from 0, black, to 100, white."""
    colors = matplotlib.colormaps[colormap](np.linspace(0, 1, 33))[:, :3]
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    return 116 * np.where(luminance > 0.008856, np.cbrt(luminance), 7.787 * luminance + 16 / 116) - 16


def test_more_evidence_is_lighter_by_even_steps() -> None:
    steps = np.diff(measure_lightness(COLORMAP))
    assert steps.min() > 0
    assert steps[2:].min() > 0.8 * steps.mean()  # the darkest colors differ in hue as well
    assert steps.max() < 1.3 * steps.mean()
    assert np.diff(measure_lightness("jet")).min() < 0


def test_a_gallery_shows_images_and_maps_in_order() -> None:
    tiles = [Tile(draw_image(), None, "image"), Tile(draw_image(), draw_map(), "Grad-CAM", "rose, 90 %")]
    figure = draw_gallery([*tiles, Tile(draw_image(), draw_map().T, "Eigen-CAM", "tulip, 8 %")])
    assert [text.get_text() for text in figure.texts] == [
        "image",
        "Grad-CAM",
        "rose, 90 %",
        "Eigen-CAM",
        "tulip, 8 %",
    ]
    assert len(figure.axes) == 4
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes[:3]]
    assert np.array_equal(shown[0], np.asarray(draw_image()))
    assert not np.array_equal(shown[1], shown[2])


def test_a_gallery_breaks_into_rows_and_frames_wrong_predictions() -> None:
    tiles = [Tile(draw_image(), draw_map(), f"class {number}", wrong=number == 3) for number in range(5)]
    figure = draw_gallery(tiles, columns=2)
    tops = [round(axes.get_position().y1, 3) for axes in figure.axes[:5]]
    assert tops[0] == tops[1] > tops[2] == tops[3] > tops[4]
    framed = [axes.spines["left"].get_visible() for axes in figure.axes[:5]]
    assert framed == [False, False, False, True, False]


def test_invalid_heatmaps_are_refused() -> None:
    for heatmap in (draw_map() * 2, draw_map()[None], np.full((4, 4), np.nan)):
        with pytest.raises(ConfigError, match="heatmap"):
            overlay(draw_image(), heatmap)
    with pytest.raises(ConfigError, match="opacity"):
        overlay(draw_image(), draw_map(), 1.5)
    with pytest.raises(ConfigError, match="at least one"):
        draw_gallery([])
