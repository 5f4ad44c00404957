"""``deepbloom gradcam``: show where a network looks, as a heatmap over each image."""

import io
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from deepbloom.config.command_settings import GradcamConfig
from deepbloom.data.folders import find_images
from deepbloom.data.inputs import SHOWN_SIDE, Readable, read_batches, stack_pixels
from deepbloom.data.preprocessing import to_inputs
from deepbloom.device import choose_device, use_cores
from deepbloom.errors import ConfigError, DataError
from deepbloom.explain.figures import Panel, draw_panels, encode
from deepbloom.explain.methods import METHODS
from deepbloom.explain.targets import explain_images, read_methods, read_networks, read_targets
from deepbloom.progress import ProgressBar
from deepbloom.report.formatting import count_of
from deepbloom.report.pages import Illustration, Section, write_page
from deepbloom.runs import files as atomic_files
from deepbloom.sinks import printable

log = logging.getLogger("deepbloom")

PAGE = "heatmaps.html"
PAGE_IMAGES = 50
"""More would make the page too large for a browser."""
LONGEST_STEM = 180
"""Bytes of a file name, of which file systems take 255."""
READING = (
    "Blue, and most of all bright cyan, marks the evidence for the named class; where there is none, nothing is "
    "painted. Each map has its own scale, from its least evidence (0) to its most (1), so do not compare colors of two "
    "maps. A heatmap shows where a network looks, not whether it is right to look there; deepbloom explain measures "
    "how far to trust it. An image in a folder that has the name of a class counts as one of that class."
)


def run(config: GradcamConfig) -> None:
    """Write ``IMAGE_METHOD.png`` for each image and method; on request also the maps, and a page of all figures.

    Raises
    ------
    DeepBloomError
        A checkpoint, a method, the target, a layer or the folder cannot be used, or no image can be read.
    """
    methods = read_methods(config.method)
    device = choose_device(config.device)
    use_cores()
    networks = read_networks(config.ckpt, config.layer, device)
    targets = [read_targets(config.target, config.contrast, network.classes) for network in networks]
    paths = find_images(config.image)
    folder = atomic_files.output_folder(Path(config.output_dir))

    names, unreadable = Counter[str](), 0
    sections: list[Section] = []
    known = {name for network in networks for name in network.classes}
    preprocessings = [network.preprocessing for network in networks]
    shown_side = None if config.full_size else SHOWN_SIDE
    with ProgressBar(total=len(paths), desc="Drawing heatmaps", unit="image") as bar:
        for images in read_batches(paths, preprocessings, config.batch_size, shown_side):
            readable = [image for image in images if isinstance(image, Readable)]
            bar.update(len(images) - len(readable))
            unreadable += len(images) - len(readable)
            if not readable:
                continue
            inputs = [
                to_inputs(stack_pixels(readable, number), preprocessing, device)
                for number, preprocessing in enumerate(preprocessings)
            ]
            for image, panels in zip(readable, explain_images(networks, inputs, methods, targets), strict=True):
                bar.update()
                if len(panels) < len(methods) * sum(map(len, targets)):
                    log.warning("%s: no map of %s against itself; it is left out.", image.path, config.contrast)
                if not panels:
                    continue
                stem = _shorten(image.path.stem)
                names[stem] += 1
                repeat = f"_{names[stem]}" if names[stem] > 1 else ""  # from another folder
                path_of = partial(_figure_path, folder, stem, repeat)
                truth = image.path.resolve().parent.name
                draw = partial(
                    draw_panels, name=image.path.name, truth=truth if truth in known else "", gray=config.gray
                )
                figures = _write_figures(path_of, image, methods, panels, config.save_raw, draw)
                if len(sections) < PAGE_IMAGES:
                    sections.append(Section(image.path.name, figures=tuple(figures)))
    if unreadable == len(paths):
        raise DataError(f"None of {count_of(unreadable, 'image')} can be read; see above.")
    if not names:
        raise ConfigError(
            f"target={config.target} contrast={config.contrast}: the network predicts the contrast for every image, "
            "and a class cannot be compared with itself. Give another contrast or target."
        )
    if config.page:
        left_out = sum(names.values()) - len(sections)
        more = f" {left_out:,} more images lie in the folder beside this page." if left_out else ""
        write_page(folder / PAGE, "Where the network looks", READING + more, sections)
        print(folder / PAGE)


def _shorten(stem: str) -> str:
    """Return what names the figures of an image: its stem, cut where method and ending would not fit after it."""
    encoded = os.fsencode(stem)
    return stem if len(encoded) <= LONGEST_STEM else encoded[:LONGEST_STEM].decode("utf-8", "ignore")


def _figure_path(folder: Path, stem: str, repeat: str, content: str) -> Path:
    return folder / f"{stem}_{content}{repeat}.png"


def _write_figures(
    path_of: Callable[[str], Path],
    image: Readable,
    methods: Sequence[str],
    panels: Sequence[Panel],
    save_raw: bool,
    draw: Callable[..., Figure],
) -> list[Illustration]:
    """Write a figure for each method, print what it shows, and return the figures for the page."""
    figures = []
    for method in methods:
        chosen = [panel for panel in panels if panel.method == method]
        path = path_of(method)
        figures.append(_write_figure(path, image, chosen, draw))
        if save_raw:
            maps = np.stack([panel.heatmap for panel in chosen]).astype(np.float32)
            raw = io.BytesIO()
            np.save(raw, maps if len(maps) > 1 else maps[0])
            atomic_files.write_bytes(path.with_suffix(".npy"), raw.getvalue())
        ProgressBar.write(printable(f"{path}  {_say(chosen)}"))
    if len(methods) == 1:
        return figures
    path = path_of("comparison")
    ProgressBar.write(printable(str(path)))
    return [_write_figure(path, image, panels, draw)]


def _write_figure(path: Path, image: Readable, panels: Sequence[Panel], draw: Callable[..., Figure]) -> Illustration:
    assert image.shown is not None
    atomic_files.write_bytes(path, encode(draw(image.shown, panels)))
    what = f"{', '.join(dict.fromkeys(METHODS[panel.method].title for panel in panels))}: {_say(panels)}."
    return Illustration(path, f"Heatmaps of {image.path.name}. {what}", what, is_photo=True, fits=len(panels) == 1)


def _say(panels: Sequence[Panel]) -> str:
    return ", ".join(dict.fromkeys(f"{panel.explained}  {panel.confidence:.2%}" for panel in panels))
