"""``deepbloom gradcam``: show where a network looks, as a heatmap over each image."""

import io
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from deepbloom.config.commands import GradcamConfig
from deepbloom.data.images import Readable, find_images, read_batches, stack_inputs
from deepbloom.data.preprocessing import preprocess
from deepbloom.device import choose_device, use_cores
from deepbloom.errors import ConfigError
from deepbloom.explain.figures import Panel, draw_panels
from deepbloom.explain.targets import Network, Target, explain, read_methods, read_networks, read_targets
from deepbloom.report.document import Illustration, Section
from deepbloom.report.html import write_page
from deepbloom.runs import files as atomic_files

log = logging.getLogger("deepbloom")

PAGE = "heatmaps.html"
PAGE_IMAGES = 50
"""A page of more would be too large for a browser."""
READING = (
    "Bright places hold the evidence for the class that is named. Each map has its own scale, from its least evidence "
    "(0) to its most (1), so that brightness cannot be compared between maps. A heatmap shows where a network looks, "
    "not whether it is right to look there; deepbloom explain measures how far it can be believed."
)


def run(config: GradcamConfig) -> None:
    """Write ``IMAGE_METHOD.png`` for every image and method; on request the maps, and a page of all figures.

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
    folder = atomic_files.make_folder(Path(config.output_dir))

    names = Counter[str]()
    sections: list[Section] = []
    for images in read_batches(paths, networks[0].preprocessing, config.batch_size):
        readable = [image for image in images if isinstance(image, Readable)]
        if not readable:
            continue
        panels: list[list[Panel]] = [[] for _ in readable]
        for method in methods:
            for network, wanted in zip(networks, targets, strict=True):
                _explain_batch(panels, network, _inputs(readable, network, networks[0], device), method, wanted)
        for image, explained in zip(readable, panels, strict=True):
            if len(explained) < len(methods) * sum(map(len, targets)):
                log.warning("%s: no map of %s against itself; it is left out.", image.path, config.contrast)
            if not explained:
                continue
            names[image.path.stem] += 1
            repeat = f"_{names[image.path.stem]}" if names[image.path.stem] > 1 else ""  # from another folder
            figures = _write_figures(folder, image, repeat, methods, explained, config.save_raw)
            if len(sections) < PAGE_IMAGES:
                sections.append(Section(image.path.name, figures=tuple(figures)))
    if not names:
        raise ConfigError(
            f"target={config.target} contrast={config.contrast}: that is what the network answers to every image, "
            "and a class cannot be compared with itself. Give another contrast or target."
        )
    if config.page:
        left_out = sum(names.values()) - len(sections)
        more = f" {left_out:,} more images lie in the folder beside this page." if left_out else ""
        write_page(folder / PAGE, "Where the network looks", READING + more, sections)
        print(folder / PAGE)


def _inputs(images: Sequence[Readable], network: Network, first: Network, device: torch.device) -> torch.Tensor:
    if network.preprocessing == first.preprocessing:
        return stack_inputs(images, device)
    inputs = torch.stack([preprocess(image.image, network.preprocessing) for image in images])
    return inputs.to(device).contiguous(memory_format=torch.channels_last)


def _explain_batch(
    panels: Sequence[list[Panel]], network: Network, inputs: torch.Tensor, method: str, targets: Sequence[Target]
) -> None:
    """Append to each image's panels one for each target that is not compared with itself."""
    for target, explained in zip(targets, explain(network, inputs, method, targets), strict=True):
        probabilities = explained.logits.double().softmax(1)
        for number, (index, heatmap) in enumerate(zip(explained.targets.tolist(), explained.maps.cpu(), strict=True)):
            if index == target.against:
                continue
            name = network.classes[index]
            if target.against is not None:
                name += f" rather than {network.classes[target.against]}"
            confidence = float(probabilities[number, index])
            panels[number].append(Panel(heatmap.numpy(), network.label, method, name, confidence))


def _write_figures(
    folder: Path, image: Readable, repeat: str, methods: Sequence[str], panels: Sequence[Panel], save_raw: bool
) -> list[Illustration]:
    """Write a figure for each method, print what each shows, and return those for the page."""
    figures = []
    for method in methods:
        chosen = [panel for panel in panels if panel.method == method]
        path = folder / f"{image.path.stem}_{method}{repeat}.png"
        figures.append(_write_figure(draw_panels(image.image, chosen), path, image, chosen))
        if save_raw:
            maps = np.stack([panel.heatmap for panel in chosen]).astype(np.float32)
            raw = io.BytesIO()
            np.save(raw, maps if len(maps) > 1 else maps[0])
            atomic_files.write_bytes(path.with_suffix(".npy"), raw.getvalue())
        print(f"{path}  {_say(chosen)}")
    if len(methods) == 1:
        return figures
    path = folder / f"{image.path.stem}_comparison{repeat}.png"
    print(path)
    return [_write_figure(draw_panels(image.image, panels), path, image, panels)]


def _write_figure(figure: Figure, path: Path, image: Readable, panels: Sequence[Panel]) -> Illustration:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    atomic_files.write_bytes(path, content.getvalue())
    return Illustration(path, f"Heatmaps of {image.path.name}: {_say(panels)}.", "")


def _say(panels: Sequence[Panel]) -> str:
    return ", ".join(dict.fromkeys(f"{panel.explained}  {panel.confidence:.2%}" for panel in panels))
