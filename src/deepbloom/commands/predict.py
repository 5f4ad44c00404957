"""``deepbloom predict``: name the flowers in images."""

import json
import logging
from pathlib import Path

import numpy as np
import torch

from deepbloom.commands.outputs import softmax, top_classes
from deepbloom.config.commands import PredictConfig
from deepbloom.data.images import Readable, find_images, printable, read_batches, stack_inputs
from deepbloom.device import choose_device, use_cores
from deepbloom.engine.checkpoint import read_model
from deepbloom.runs import files as atomic_files

log = logging.getLogger("deepbloom")

COLUMNS = ("path", "prediction", "class_name", "confidence", "top5", "error")


def run(config: PredictConfig) -> None:
    """Print a table and, where ``output_dir`` is given, write predictions.csv and predictions.json.

    Raises
    ------
    DeepBloomError
        The checkpoint or the folder cannot be used, nothing is named by ``image``, or no image can be read.
    """
    device = choose_device(config.device)
    use_cores()
    trained = read_model(config.ckpt)
    model = trained.network.to(device).to(memory_format=torch.channels_last)
    paths = find_images(config.image)
    folder = atomic_files.make_folder(Path(config.output_dir)) if config.output_dir else None

    answers: list[dict] = []
    for images in read_batches(paths, trained.preprocessing, config.batch_size):
        readable = [image for image in images if isinstance(image, Readable)]
        probabilities = np.empty((0, len(trained.classes)))
        if readable:
            with torch.inference_mode():
                probabilities = softmax(model(stack_inputs(readable, device)).cpu().numpy())
        rows = iter(probabilities)
        answers += [
            _answer(image.path, next(rows), trained.classes)
            if isinstance(image, Readable)
            else {"path": str(image.path), "error": image.error, "top5": []}
            for image in images
        ]
        _print(answers[-len(images) :])
    if folder:
        atomic_files.write_csv(folder / "predictions.csv", COLUMNS, [_csv_row(answer) for answer in answers])
        content = json.dumps(answers, indent=2, ensure_ascii=False)
        atomic_files.write_bytes(folder / "predictions.json", content.encode("utf-8", "backslashreplace"))
        log.info("wrote %s", folder / "predictions.csv")


def _answer(path: Path, probabilities: np.ndarray, classes: tuple[str, ...]) -> dict:
    best = top_classes(probabilities[None])[0]
    top5 = [{"index": int(i), "class_name": classes[i], "confidence": round(float(probabilities[i]), 6)} for i in best]
    return {"path": str(path), "error": "", "top5": top5}


def _csv_row(answer: dict) -> dict[str, object]:
    if answer["error"]:
        return {"path": answer["path"], "error": answer["error"]}
    first = answer["top5"][0]
    return {
        "path": answer["path"],
        "prediction": first["index"],
        "class_name": first["class_name"],
        "confidence": f"{first['confidence']:.6f}",
        "top5": " ".join(str(entry["index"]) for entry in answer["top5"]),
        "error": "",
    }


def _print(answers: list[dict]) -> None:
    for answer in answers:
        if not answer["error"]:
            print(printable(answer["path"]))
        for entry in answer["top5"]:
            print(f"  {entry['confidence']:7.2%}  {printable(entry['class_name'])}")
