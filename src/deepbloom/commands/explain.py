"""``deepbloom explain``: measure on the test split how far heatmaps can be trusted."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepbloom.config.command_settings import ExplainConfig
from deepbloom.data.batches import evaluation_batches
from deepbloom.data.dataset import PreparedData
from deepbloom.data.masks import find_masks
from deepbloom.device import choose_device, device_name, use_cores
from deepbloom.engine.checkpoint import find_model_file, read_model
from deepbloom.engine.evaluate import check_finite, predict_logits
from deepbloom.engine.trained_data import prepare_trained_data
from deepbloom.explain import evaluate, gallery, page
from deepbloom.explain.evaluate import Sample
from deepbloom.explain.summary import MEASURES, Values
from deepbloom.explain.targets import Network, place_network, read_methods
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir
from deepbloom.runs.provenance import collect_versions

TABLE = "explain.csv"
COLUMNS = ("image_id", "class_name", "explained", "confidence", "map", *MEASURES, "area_share")


def run(config: ExplainConfig) -> None:
    """Write explain.json, explain.csv, explain.html, figures/ and heatmaps/, and print the means and the findings.

    Raises
    ------
    DeepBloomError
        The checkpoint, the data, the masks, a method, a layer or the folder cannot be used.
    """
    started = time.perf_counter()
    methods, device = read_methods(config.method), choose_device(config.device)
    use_cores()
    trained = read_model(config.ckpt)
    network = place_network(trained, trained.label, config.layer, device)
    data = prepare_trained_data(config.ckpt, trained, config.data)
    masks = find_masks(data.source, config.masks)
    folder = atomic_files.output_folder(_find_folder(config))
    figures = atomic_files.make_folder(folder / "figures")
    gallery.remove_old(folder)

    sample, values, measured = evaluate.evaluate(network, data, masks, methods, config.images, config.seed)
    batches = evaluation_batches(data.pixels, data.split.test, data.source.targets, network.preprocessing, 64)
    logits, _ = predict_logits(network.model, batches, device)
    check_finite(logits, config.ckpt)
    content: dict[str, Any] = {
        "model": network.label,
        "checkpoint": str(find_model_file(config.ckpt).resolve()),
        "methods": methods,
        "layers": list(network.layers),
        "target": "predicted",
        "seed": config.seed,
        "described": MEASURES,
        **measured,
        "heatmaps": gallery.write_heatmaps(folder / run_dir.HEATMAPS, network, data, logits, methods[0]),
        "dataset_fingerprint": data.source.fingerprint,
        "split_fingerprint": data.split_fingerprint,
        "device_name": device_name(device),
        "num_threads": torch.get_num_threads(),
        "versions": collect_versions(),
    }
    galleries = gallery.write_galleries(figures, network, data, logits, gallery.quick_method(methods))
    content["seconds"] = round(time.perf_counter() - started, 1)
    _write_rows(folder / TABLE, data, network, sample, values)
    atomic_files.write_json(folder / run_dir.EXPLANATION, content)
    path = page.write(folder, content, galleries)
    _print(content)
    print(path)


def _find_folder(config: ExplainConfig) -> Path:
    if config.output_dir:
        return Path(config.output_dir)
    given = Path(config.ckpt)
    return given / run_dir.EXPLAIN if given.is_dir() else Path(f"outputs/explain-{given.resolve().parent.name}")


def _write_rows(path: Path, data: PreparedData, network: Network, sample: Sample, values: Values) -> None:
    """Write a row for each image and kind of map."""
    rows = []
    for kind, columns in values.items():
        for number, index in enumerate(sample.indices):
            row: dict[str, object] = {
                "image_id": data.source.image_ids[index],
                "class_name": network.classes[data.source.targets[index]],
                "explained": network.classes[int(sample.targets[number])],
                "confidence": f"{sample.confidences[number]:.6f}",
                "map": kind,
            }
            measured = {name: column[number] for name, column in columns.items()}
            rows.append(row | {name: f"{value:.6f}" for name, value in measured.items() if np.isfinite(value)})
    atomic_files.write_csv(path, COLUMNS, rows)


def _print(content: Mapping[str, Any]) -> None:
    means = content["measures"]
    width = max(len(measure.title) for measure in MEASURES.values())
    print(f"{'':<{width}}  " + "  ".join(f"{kind:>14}" for kind in means))
    for name, measure in MEASURES.items():
        cells = [f"{found.mean:14.3f}" if (found := means[kind].get(name)) else " " * 14 for kind in means]
        if any(cell.strip() for cell in cells):
            print(f"{measure.title:<{width}}  " + "  ".join(cells))
    print(f"\n{content['images']} test images, {content['seconds']:.0f} s")
    for finding in content["findings"]:
        print(finding)
