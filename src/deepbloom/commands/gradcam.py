"""``deepbloom gradcam``: show where a network looks, as a heatmap over each picture."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from deepbloom import run_dir
from deepbloom.commands.outputs import softmax
from deepbloom.commands.pictures import Readable, find_pictures, read_batches, stack_inputs
from deepbloom.config import GradcamConfig, check_choice
from deepbloom.device import choose_device, use_cores
from deepbloom.engine.checkpoint import read_model
from deepbloom.errors import ConfigError, unknown
from deepbloom.explain.cam import METHODS, class_activation_maps
from deepbloom.explain.figures import draw_heatmap
from deepbloom.models.registry import get_spec


def run(config: GradcamConfig) -> None:
    """Write ``PICTURE_METHOD.png`` for every picture, and with ``save_raw`` the map as ``.npy``.

    Raises
    ------
    DeepBloomError
        The checkpoint, the method, the target, the layer or the folder cannot be used, or no picture can be read.
    """
    check_choice("method", config.method, tuple(METHODS))
    device = choose_device(config.device)
    use_cores()
    trained = read_model(config.ckpt)
    model, classes = trained.network.to(device).to(memory_format=torch.channels_last), trained.classes
    target = find_target(config.target, classes)
    layer = get_spec(trained.header["model"]).target_layer if config.layer == "default" else config.layer
    paths = find_pictures(config.image)
    folder = run_dir.make_folder(Path(config.output_dir))

    names = Counter[str]()
    for pictures in read_batches(paths, trained.preprocessing, config.batch_size):
        readable = [picture for picture in pictures if isinstance(picture, Readable)]
        if not readable:
            continue
        maps = class_activation_maps(model, stack_inputs(readable, device), [layer], target, config.method)
        probabilities = softmax(maps.logits.cpu().numpy())
        for picture, heatmap, scores in zip(readable, maps.maps.cpu().numpy(), probabilities, strict=True):
            shown = int(scores.argmax()) if target is None else target
            stem = f"{picture.path.stem}_{config.method}"
            names[stem] += 1
            if names[stem] > 1:  # the same name in another folder
                stem = f"{stem}_{names[stem]}"
            figure = draw_heatmap(picture.picture, heatmap, classes[shown], float(scores[shown]))
            image = io.BytesIO()
            figure.savefig(image, format="png")
            run_dir.write_bytes(folder / f"{stem}.png", image.getvalue())
            if config.save_raw:
                raw = io.BytesIO()
                np.save(raw, heatmap.astype(np.float32))
                run_dir.write_bytes(folder / f"{stem}.npy", raw.getvalue())
            print(f"{folder / f'{stem}.png'}  {classes[shown]}  {scores[shown]:.2%}")


def find_target(target: str, classes: tuple[str, ...]) -> int | None:
    """Return the index of a class given by name or index; None for ``predicted``.

    Raises
    ------
    ConfigError
        The network has no such class.
    """
    if target in classes:
        return classes.index(target)
    if target == "predicted":
        return None
    if target.isdecimal():
        if int(target) < len(classes):
            return int(target)
        raise ConfigError(f"target={target}: the network has classes 0 to {len(classes) - 1}.")
    raise ConfigError(unknown("target", target, [*classes, "predicted"]))
