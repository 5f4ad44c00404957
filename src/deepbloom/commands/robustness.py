"""``deepbloom robustness``: measure networks on corrupted test images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deepbloom.config.command_settings import RobustnessConfig
from deepbloom.config.schema import as_list
from deepbloom.data.dataset import PreparedData, choose_images
from deepbloom.data.masks import AUTO, find_masks
from deepbloom.data.pixel_cache import open_pixels
from deepbloom.data.sources.imagefolder import ImageFolder
from deepbloom.device import available_cores, share_freed_memory
from deepbloom.engine.predictor import Predictor
from deepbloom.engine.trained_data import prepare_trained_data
from deepbloom.errors import CheckpointError, ConfigError, DataError
from deepbloom.export.opening import find_file, is_exported, open_predictor
from deepbloom.report.corrupted_plots import plot_severities
from deepbloom.report.formatting import align, format_percent, shorten_apart
from deepbloom.robustness import evaluate, figures
from deepbloom.robustness.corruptions import CORRUPTIONS, SEVERITIES, check_corruption
from deepbloom.robustness.evaluate import CLEAN_CONDITION, Condition, Images, Measured
from deepbloom.runs import files
from deepbloom.runs import folder as run_dir
from deepbloom.sinks import printable

TABLE = "robustness.csv"
COLUMNS = ("corruption", "severity", "top1_accuracy", "low", "high", "count", "calibration_error", "model")
IMAGE_COLUMNS = ("model", "image_id", "clean", "corrupted")
HEATMAP_TABLE = "heatmaps.csv"
HEATMAP_COLUMNS = (
    "corruption",
    "severity",
    "energy_inside",
    "low",
    "high",
    "area_share",
    "pointing_hit",
    "count",
    "model",
)
QUICK_SEVERITIES, QUICK_IMAGES = (3,), 200


def run(config: RobustnessConfig) -> None:
    """Write robustness.csv, robustness.json, images.csv and figures, and print a table; heatmaps.csv on request.

    Raises
    ------
    DeepBloomError
        A checkpoint, the data, a corruption or the folder cannot be used, or the networks have different test images.
    """
    share_freed_memory()
    quick = config.suite == "quick"
    names = _read_names(config.corruptions)
    wanted = evaluate.conditions(names, QUICK_SEVERITIES if quick else SEVERITIES)
    count = config.images or (QUICK_IMAGES if quick else 0)
    exported = next(filter(is_exported, config.checkpoints), None)
    if config.heatmaps and exported:
        raise ConfigError(f"heatmaps=true needs the network itself, and {exported} is an exported file. Give its run.")
    opened = [open_predictor(ckpt, config.device) for ckpt in config.checkpoints]
    own = [_own_images(config.image, trained) if config.image else None for trained in opened]
    folder = files.output_folder(_find_folder(config))
    networks: list[Measured] = []
    summaries: list[dict[str, Any]] = []
    test: Images | None = None
    for ckpt, label, trained, mine in zip(config.checkpoints, _labels(config.checkpoints), opened, own, strict=True):
        data = prepare_trained_data(ckpt, trained, config.data)
        images = _test_images(data, count, config.seed)
        if test and (images.fingerprint, images.image_ids) != (test.fingerprint, test.image_ids):
            raise CheckpointError(
                f"{ckpt} has other test images than {config.checkpoints[0]}: compare runs of one split."
            )
        test = images
        located = _locate(config, trained, data, images, wanted) if config.heatmaps else {}
        network = _test(config, ckpt, label or trained.label, trained, images, wanted, folder)
        networks.append(network)
        worst = evaluate.suffering_classes(network, images.targets, trained.classes)
        summary = evaluate.summarize(network) | {"suffering_classes": worst}
        if mine:
            measured = _test(config, ckpt, network.label, trained, mine, [CLEAN_CONDITION], folder)
            summary["own_images"] = {"folder": config.image, **evaluate.score(measured, CLEAN_CONDITION)}
        summaries.append(summary | located)

    comparisons = evaluate.compare_all(networks)
    rows = [row | {"model": found["model"]} for found in summaries for row in found["conditions"]]
    files.write_csv(folder / TABLE, COLUMNS, rows)
    content = {
        "suite": config.suite,
        "seed": config.seed,
        "images": len(images.indices),
        "corruptions": names,
        "networks": summaries,
        "comparisons": comparisons,
        "dataset_fingerprint": data.source.fingerprint,
        "split_fingerprint": data.split_fingerprint,
    }
    files.write_json(folder / run_dir.ROBUSTNESS, content)
    images_rows = [row for network in networks for row in _list_images(network, images)]
    files.write_csv(folder / run_dir.ROBUST_IMAGES, IMAGE_COLUMNS, images_rows)
    drawn = files.make_folder(folder / "figures")
    curves = {found["model"]: [found["clean"], *found["conditions"]] for found in summaries}
    plot_severities(curves, drawn / "accuracy_by_severity.png")
    if config.heatmaps:
        _write_heatmaps(summaries, folder / HEATMAP_TABLE, drawn / "heatmaps_by_severity.png")
    sample = images.pixels.read(images.indices[:1])[0]
    figures.draw_samples(sample, images.image_ids[0], wanted, config.seed, drawn / "samples.png")
    _print(summaries, comparisons)
    print(folder)


def _test(
    config: RobustnessConfig,
    ckpt: str,
    label: str,
    trained: Predictor,
    images: Images,
    wanted: Sequence[Condition],
    folder: Path,
) -> Measured:
    path = find_file(ckpt)
    correct, confidence = evaluate.run_network(
        trained.faster(),
        images,
        wanted,
        config.seed,
        files.make_folder(folder / "cache"),
        digest_network(path),
    )
    return Measured(label, str(path.resolve()), correct, confidence)


def digest_network(path: Path) -> str:
    """Return what names the cached results of a network: the digests of its file and of OpenVINO's .bin beside it."""
    return "-".join(files.digest(file)[:32] for file in (path, path.with_suffix(".bin")) if file.is_file())


def _locate(
    config: RobustnessConfig, trained: Predictor, data: PreparedData, images: Images, wanted: Sequence[Condition]
) -> dict[str, Any]:
    """Return ``heatmaps`` of robustness.json: where those of a network lie, and on which masks."""
    from deepbloom.device import choose_device
    from deepbloom.engine.checkpoint import Trained
    from deepbloom.explain.targets import DEFAULT_LAYER, place_network
    from deepbloom.robustness import heatmaps

    assert isinstance(trained, Trained)
    masks = find_masks(data.source, AUTO)
    mixed = replace(images, indices=choose_images(data, images.indices, 0, config.seed))
    network = place_network(trained, trained.label, DEFAULT_LAYER, choose_device(config.device))
    chosen = heatmaps.choose_with_masks(mixed, masks)
    rows = heatmaps.locate(network, chosen, masks, wanted, config.seed)
    return {"heatmaps": {"method": heatmaps.METHOD, "masks": masks.origin, "conditions": rows}}


def _write_heatmaps(summaries: Sequence[dict[str, Any]], table: Path, figure: Path) -> None:
    found = {summary["model"]: summary["heatmaps"]["conditions"] for summary in summaries}
    files.write_csv(table, HEATMAP_COLUMNS, [row | {"model": name} for name, rows in found.items() for row in rows])
    plot_severities(found, figure, "energy_inside", "evidence on the object", chance="area_share")


def _list_images(network: Measured, images: Images) -> list[dict[str, Any]]:
    """Return for each image whether it is classified correctly, and under which share of the conditions."""
    clean = network.correct[CLEAN_CONDITION]
    return [
        {"model": network.label, "image_id": name, "clean": int(right), "corrupted": f"{share:.6f}"}
        for name, right, share in zip(images.image_ids, clean, network.corrupted, strict=True)
    ]


def _find_folder(config: RobustnessConfig) -> Path:
    if config.output_dir:
        return Path(config.output_dir)
    if len(config.checkpoints) > 1:
        return Path("outputs/robustness")
    given = Path(config.checkpoints[0])
    return given / run_dir.ROBUST if given.is_dir() else Path(f"outputs/robustness-{run_dir.name_output(given)}")


def _labels(checkpoints: Sequence[str]) -> list[str]:
    """Return a label for each checkpoint; empty for a single one, which has its model's name."""
    return shorten_apart([Path(ckpt).name for ckpt in checkpoints]) if len(checkpoints) > 1 else [""]


def _read_names(given: Any) -> list[str]:
    names = [str(name) for name in as_list(given)]
    if names == ["all"]:
        return list(CORRUPTIONS)
    for name in names:
        check_corruption(name)
    return list(dict.fromkeys(names))


def _test_images(data: PreparedData, count: int, seed: int) -> Images:
    indices = choose_images(data, data.split.test, count, seed) if count else data.split.test
    source = data.source
    return Images(data.pixels, indices, source.image_ids, source.targets, source.fingerprint)


def _own_images(folder: str, trained: Predictor) -> Images:
    """Return the images of a folder with one folder per class, all of which the network must know."""
    source = ImageFolder.create(folder)
    unknown = sorted(set(source.class_names) - set(trained.classes))
    if unknown:
        raise DataError(
            f"image={folder} has a class {unknown[0]!r}, which the network does not know. Its classes are "
            f"{', '.join(trained.classes)}."
        )
    targets = np.array([trained.classes.index(source.class_names[target]) for target in source.targets])
    pixels = open_pixels(source, trained.preprocessing, "off", available_cores())
    return Images(pixels, np.arange(len(source)), source.image_ids, targets, source.fingerprint)


def _print(summaries: Sequence[dict[str, Any]], comparisons: Sequence[dict[str, Any]]) -> None:
    for found in summaries:
        _print_network(found)
    for pair in comparisons:
        verdict = "no difference shown" if pair["low"] <= 0 <= pair["high"] else "different"
        points = [f"{100 * pair[name]:+.1f}" for name in ("difference", "low", "high")]
        names = f"{printable(pair['first'])} minus {printable(pair['second'])}"
        print(f"{names}: {points[0]} points ({points[1]} to {points[2]}), {verdict}")


def _print_network(found: dict[str, Any]) -> None:
    print(f"{printable(found['model'])}\n{_tabulate(found['conditions'], 'top1_accuracy')}\n")
    print(f"clean test accuracy       {_interval(found['clean'], 'top1_accuracy')}, {found['clean']['count']} images")
    if own := found.get("own_images"):
        print(f"accuracy on {printable(own['folder'])}  {_interval(own, 'top1_accuracy')}, {own['count']} images")
    print(f"mean corruption accuracy  {_interval(found['mean_corruption_accuracy'], 'value')}")
    worst = [
        f"{printable(row['class_name'])} ({format_percent(row['clean'], 0)} to {format_percent(row['corrupted'], 0)})"
        for row in found["suffering_classes"]
    ]
    print(f"classes that lose most    {', '.join(worst) or 'none'}\n")
    if located := found.get("heatmaps"):
        clean, *rows = located["conditions"]
        print(f"evidence on the object (Grad-CAM, {clean['count']} images)\n{_tabulate(rows, 'energy_inside')}\n")
        print(f"clean  {_interval(clean, 'energy_inside')}; a constant map: {format_percent(clean['area_share'])}\n")


def _tabulate(rows: Sequence[dict[str, Any]], key: str) -> str:
    """Return a line for each corruption with the values of its severities and their mean."""
    severities = sorted({row["severity"] for row in rows})
    table = [["corruption", *(f"severity {severity}" for severity in severities), "mean"]]
    for name in dict.fromkeys(row["corruption"] for row in rows):
        values = [row[key] for row in rows if row["corruption"] == name]
        table.append([name, *(format_percent(value) for value in (*values, float(np.mean(values))))])
    return align(table)


def _interval(row: dict[str, Any], key: str) -> str:
    return f"{format_percent(row[key])} ({format_percent(row['low'])} to {format_percent(row['high'])})"
