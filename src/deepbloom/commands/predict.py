"""``deepbloom predict``: classify images."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepbloom.calibration.rejection import NONE
from deepbloom.config.command_settings import PredictConfig
from deepbloom.data.folders import find_images
from deepbloom.data.images import upright_rgb
from deepbloom.data.inputs import Readable, Unreadable, read_batches, stack_pixels
from deepbloom.data.preprocessing import resize
from deepbloom.engine.ensemble import Ensemble
from deepbloom.engine.judge import Judge
from deepbloom.errors import DataError
from deepbloom.export.opening import open_ensemble
from deepbloom.metrics import best_guesses
from deepbloom.progress import ProgressBar
from deepbloom.report.formatting import count_of
from deepbloom.runs import files as atomic_files
from deepbloom.sinks import printable

log = logging.getLogger("deepbloom")

COLUMNS = ("path", "prediction", "class_name", "confidence", "top5", "error")


def run(config: PredictConfig) -> None:
    """Print a table and, if ``output_dir`` is given, write predictions.csv and predictions.json.

    Raises
    ------
    DeepBloomError
        The checkpoint or the folder cannot be used, ``image`` names nothing, no image can be classified, or the
        checkpoint holds too little for rejection or evidence.
    """
    ensemble = open_ensemble(config.ckpt, config.device, config.tta == "mirror")
    preprocessings = [member.preprocessing for member in ensemble.members]
    judge = Judge.create(config, ensemble)
    paths = find_images(config.image)
    folder = atomic_files.output_folder(Path(config.output_dir)) if config.output_dir else None

    entries: list[dict[str, Any]] = []
    with ProgressBar(total=len(paths), desc="Classifying", unit="image") as bar:
        for images in read_batches(paths, preprocessings, config.batch_size):
            for entry in _classify(images, judge):
                entries.append(entry)
                _print(entry)
            bar.update(len(images))
    if folder:
        atomic_files.write_csv(
            folder / "predictions.csv", (*COLUMNS, *judge.columns), [_csv_row(entry) for entry in entries]
        )
        content = json.dumps(entries, indent=2, ensure_ascii=False)
        atomic_files.write_bytes(folder / "predictions.json", content.encode("utf-8", "backslashreplace"))
        log.info("wrote %s", folder / "predictions.csv")
    failed = sum(bool(entry["error"]) for entry in entries)
    if failed == len(entries):
        which = "The image cannot" if failed == 1 else f"None of {failed} images can"
        raise DataError(f"{which} be classified; see above.")
    if failed:
        log.warning("%d of %s cannot be classified; see above.", failed, count_of(len(entries), "image"))


class PredictionRows(list[dict[str, Any]]):
    """Predictions, a dict per image as in predictions.json: ``path``, ``error``, ``top5``. A table in notebooks."""

    def _repr_html_(self) -> str:
        import html

        lines = []
        for row in self:
            guesses = "; ".join(f"{guess['class_name']} {guess['confidence']:.1%}" for guess in row["top5"][1:])
            best = row["top5"][0] if row["top5"] else {"class_name": row["error"], "confidence": None}
            confidence = "" if best["confidence"] is None else f"{best['confidence']:.1%}"
            cells = (row["path"], best["class_name"], confidence, guesses)
            lines.append("<tr>" + "".join(f"<td>{html.escape(printable(cell))}</td>" for cell in cells) + "</tr>")
        headings = "".join(f"<th>{name}</th>" for name in ("image", "prediction", "confidence", "next"))
        return f"<table><thead><tr>{headings}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def predict(ckpt: Any, images: Any, device: str = "auto", batch_size: int = 32) -> PredictionRows:
    """Return predictions as ``deepbloom predict`` writes them to predictions.json.

    Parameters
    ----------
    ckpt : str, Path, or a list of these
        A run directory, its ``model.safetensors``, or an exported file; several: the mean of their probabilities.
    images : str, Path, PIL image, or a list of these
        Paths as for ``image=``: files, folders, patterns, ``sample``. A PIL image has its place in the list as path.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    batch_size : int
        Images per forward pass.

    Raises
    ------
    DeepBloomError
        The checkpoint cannot be used, or a path names nothing.
    """
    ensemble = open_ensemble(ckpt, device)
    preprocessings = [member.preprocessing for member in ensemble.members]
    rows = PredictionRows()
    for place, item in enumerate(images if isinstance(images, list | tuple) else [images]):
        batches: Iterable[list[Readable | Unreadable]]
        if isinstance(item, Image.Image):
            pixels = tuple(resize(upright_rgb(item), preprocessing) for preprocessing in preprocessings)
            batches = [[Readable(Path(str(place)), pixels, None)]]
        else:
            batches = read_batches(find_images(str(item)), preprocessings, batch_size)
        for batch in batches:
            rows += _classify(batch, Judge(ensemble))
    return rows


def _classify(images: Sequence[Readable | Unreadable], judge: Judge) -> Iterator[dict[str, Any]]:
    readable = [image for image in images if isinstance(image, Readable)]
    members = range(len(judge.ensemble.members))
    rows = judge.judge([stack_pixels(readable, place) for place in members]) if readable else []
    for image in images:
        logits, facts = rows.pop(0) if isinstance(image, Readable) else (None, {})
        yield _entry(image, logits, judge.ensemble, facts)


def _entry(
    image: Readable | Unreadable, logits: np.ndarray | None, ensemble: Ensemble, facts: dict[str, Any]
) -> dict[str, Any]:
    """Return the prediction for one image, with further facts about it, as it stands in predictions.json."""
    if logits is None:
        return {"path": str(image.path), "error": getattr(image, "error", ""), "top5": []}
    if not np.isfinite(logits).all():
        error = f"The network gives logits that are not finite for {image.path}."
        log.warning("%s", error)
        return {"path": str(image.path), "error": error, "top5": []}
    top5 = best_guesses(logits, ensemble.temperature, ensemble.classes)
    return {"path": str(image.path), "error": "", "top5": top5} | facts


def _csv_row(entry: dict[str, Any]) -> dict[str, object]:
    if entry["error"]:
        return {"path": entry["path"], "error": entry["error"]}
    first = entry["top5"][0]
    rejected = bool(entry.get("reason"))
    return {
        "path": entry["path"],
        "prediction": "" if rejected else first["index"],
        "class_name": NONE if rejected else first["class_name"],
        "confidence": f"{first['confidence']:.6f}",
        "top5": " ".join(str(guess["index"]) for guess in entry["top5"]),
        "error": "",
        "reason": entry.get("reason", ""),
        "evidence": " ".join(image["image_id"] for image in entry.get("evidence", [])),
    }


def _print(entry: dict[str, Any]) -> None:
    if not entry["error"]:
        ProgressBar.write(printable(entry["path"]))
    if entry.get("reason"):
        ProgressBar.write(f"           {NONE} ({entry['reason']})")
    for guess in entry["top5"]:
        ProgressBar.write(f"  {guess['confidence']:7.2%}  {printable(guess['class_name'])}")
    for image in entry.get("evidence", []):
        like = f"{printable(image['image_id'])} ({printable(image['class_name'])})"
        ProgressBar.write(f"           like {like}, similarity {image['similarity']:.3f}")
