"""Figures keep the image's size and orientation, and their text fits."""

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import spearmanr

from deepbloom.errors import ConfigError
from deepbloom.explain.figures import COLORMAP, NOTE, Panel, Tile, contour_levels, draw_gallery, draw_panels, overlay

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


def draw_heatmap(image: Image.Image, heatmap: np.ndarray, class_name: str, confidence: float) -> Figure:
    return draw_panels(image, [Panel(heatmap, "mini_resnet", "gradcam", class_name, confidence)], "flower.jpg")


def write_texts(figure: Figure) -> list[str]:
    """Return a figure's texts without the note at its foot."""
    return [text.get_text() for text in figure.texts if text.get_text().rstrip(" …") not in NOTE]


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
    assert np.abs(mixed - (0.7 * pixels + 0.3 * colors)).max() <= 1.5
    strongest = np.unravel_index(np.abs(colors - 255 * np.array(COLORMAP(1.0)[:3])).sum(2).argmin(), colors.shape[:2])
    assert abs(strongest[0] - 4.5 * 48 / 16) < 3
    assert abs(strongest[1] - 12.5 * 64 / 16) < 3


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
    assert write_texts(figure) == ["flower.jpg · mini_resnet · Grad-CAM", "image", "$x_1$ & {rose} · 98.7 %"]
    assert not any(text.get_parse_math() for text in figure.texts)
    assert LONG_NAME.split(",")[0] in " ".join(
        text.get_text() for text in draw_heatmap(draw_image(), draw_map(), LONG_NAME, 0.1).texts
    )


def test_a_scale_says_what_the_colors_mean() -> None:
    scale = draw_heatmap(draw_image((500, 400)), draw_map(), "rose", 0.5).axes[-1]
    assert [label.get_text() for label in scale.get_yticklabels()] == ["0", "0.5", "1"]
    assert scale.get_ylabel() == "evidence, from its least to its most"


def measure_lightness(colormap: str | Colormap) -> np.ndarray:
    """Return CIE L* of 33 colors, from 0, black, to 100, white."""
    return to_lab(matplotlib.colormaps.get_cmap(colormap)(np.linspace(0, 1, 33))[:, :3])[:, 0]


def to_lab(colors: np.ndarray) -> np.ndarray:
    """Return CIE L*a*b* (D65) of sRGB colors in [0, 1]."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / to_xyz.sum(1)
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


GROUNDS = {
    "white": (250, 250, 250),
    "yellow": (250, 210, 30),
    "orange": (240, 120, 20),
    "purple": (130, 50, 150),
    "green": (60, 110, 40),
    "red": (190, 20, 30),
    "blue": (90, 100, 200),
    "black": (12, 12, 12),
}
EVIDENCE = np.linspace(0, 1, 101, dtype=np.float32)[None].repeat(101, axis=0)


def show_distances(ground: tuple[int, ...], shown: np.ndarray) -> np.ndarray:
    """Return how far each shown color is from the plain image beside it."""
    return np.linalg.norm(to_lab(shown / 255) - to_lab(np.array(ground) / 255), axis=-1)


@pytest.mark.parametrize("ground", GROUNDS)
def test_the_shown_color_tells_the_evidence_on_flowers_of_all_colors(ground: str) -> None:
    plain = Image.new("RGB", EVIDENCE.shape[::-1], GROUNDS[ground])
    shown = np.asarray(overlay(plain, EVIDENCE))[0]
    assert shown[0].tolist() == list(GROUNDS[ground])  # nothing is painted where there is no evidence
    assert spearmanr(show_distances(GROUNDS[ground], shown), EVIDENCE[0]).statistic > 0.95


def test_a_constant_blend_with_inferno_does_not_tell_the_evidence_on_orange() -> None:
    colors = 255 * matplotlib.colormaps["inferno"](EVIDENCE[0])[:, :3]
    shown = 0.55 * np.array(GROUNDS["orange"]) + 0.45 * colors
    assert spearmanr(show_distances(GROUNDS["orange"], shown), EVIDENCE[0]).statistic < 0.95


@pytest.mark.parametrize("gray", [False, True])
def test_the_scale_has_exactly_the_colors_that_are_seen(gray: bool) -> None:
    heatmap = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(64, 0)
    plain = Image.new("RGB", (64, 64), GROUNDS["orange"])
    figure = draw_panels(plain, [Panel(heatmap, "mini_resnet", "gradcam", "rose", 0.9)], gray=gray)
    seen, scale = (np.asarray(figure.axes[place].images[0].get_array()).astype(int) for place in (1, -1))
    distances = np.abs(seen[32][:, None] - scale[None, :, 0]).max(-1)  # (64, 256)
    assert distances.min(1).max() <= 2
    assert np.diff(distances.argmin(1)).max() <= 0  # from the scale's foot, its last row, to its top
    assert (np.ptp(seen[0, 0]) == 0) == gray
    assert np.asarray(figure.axes[0].images[0].get_array())[0, 0].tolist() == list(GROUNDS["orange"])


def test_contours_hold_20_and_50_percent_of_the_evidence() -> None:
    heatmap = draw_map()
    outer, inner = contour_levels(heatmap)
    largest = heatmap.max() / heatmap.sum()
    assert 0.2 <= heatmap[heatmap >= inner].sum() / heatmap.sum() < 0.2 + 4 * largest
    assert 0.5 <= heatmap[heatmap >= outer].sum() / heatmap.sum() < 0.5 + 4 * largest
    assert contour_levels(np.ones((4, 4))) == contour_levels(np.zeros((4, 4))) == []
    assert len(draw_heatmap(draw_image(), heatmap, "rose", 0.5).axes[1].collections) == 2
    assert not draw_heatmap(draw_image(), np.zeros((4, 4)), "rose", 0.5).axes[1].collections


def test_a_wrong_prediction_says_what_is_right() -> None:
    right, wrong = (Panel(draw_map(), name, "gradcam", name, 0.9, prediction=name) for name in ("rose", "tulip"))
    figure = draw_panels(draw_image(), [right, wrong], "a.jpg", truth="rose")
    assert " ".join(write_texts(figure)).endswith("tulip · 90.0 %; predicted tulip, is rose")
    assert [axes.spines["left"].get_visible() for axes in figure.axes[:3]] == [False, False, True]
    unknown = draw_panels(draw_image(), [right, wrong], "a.jpg")
    assert not any("predicted" in text for text in write_texts(unknown))


def test_more_evidence_is_lighter_by_even_steps() -> None:
    steps = np.diff(measure_lightness(COLORMAP))
    assert steps.min() > 0
    assert steps[2:].min() > 0.8 * steps.mean()  # the darkest colors differ in hue as well
    assert steps.max() < 1.3 * steps.mean()
    assert np.diff(measure_lightness("jet")).min() < 0


def test_a_gallery_shows_images_and_maps_in_order() -> None:
    tiles = [Tile(draw_image(), None, "image"), Tile(draw_image(), draw_map(), "Grad-CAM", "rose, 90 %")]
    figure = draw_gallery([*tiles, Tile(draw_image(), draw_map().T, "Eigen-CAM", "tulip, 8 %")])
    assert write_texts(figure) == [
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


@pytest.mark.parametrize("hostile", ["rose\x1b[31m", "tulip\u202eenod", "daisy\x07"])
def test_names_from_outside_are_printable_in_every_text_of_a_figure(hostile: str) -> None:
    panels = [Panel(draw_map(), hostile, method, hostile, 0.9, prediction="iris") for method in ("gradcam", "layercam")]
    figure = draw_panels(draw_image(), panels, name=hostile, truth=hostile)
    tiles = draw_gallery([Tile(draw_image(), draw_map(), hostile, hostile)], hostile)
    texts = [text.get_text() for drawn in (figure, tiles) for text in drawn.texts]
    assert sum(hostile.encode("unicode_escape").decode()[:6] in text for text in texts) >= 5
    assert all(text.isprintable() for text in texts)
