"""``deepbloom data``: count the images, show how they are split, and check that they can be read."""

import io
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepbloom.config.command_settings import InspectConfig
from deepbloom.data import quality
from deepbloom.data.dataset import PreparedData, prepare
from deepbloom.data.label_check import COLUMNS, LabelCheck, find_folds
from deepbloom.data.leakage import audit_split, describe_findings
from deepbloom.data.near_duplicates import find_near_duplicates, fingerprints_of
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.data.sources import ImageSource, load_source
from deepbloom.data.split import PARTS
from deepbloom.device import available_cores
from deepbloom.report.formatting import count_of
from deepbloom.runs import files as atomic_files
from deepbloom.sinks import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFLICT_COLUMNS = ("image_id", "given", "near_duplicate", "its_label")
OUTLIER_COLUMNS = ("image_id", "given", "distance")
SHOWN_CLASSES = 12
IMAGES_PER_CLASS = 6
SHOWN_SUSPECTS = 20


def run(config: InspectConfig) -> None:
    """Decode every image once, print counts and near-duplicates; write counts.csv, quality.csv and contact_sheet.png.

    With ``check=labels``, rank the images whose label is probably wrong instead.

    Raises
    ------
    DataError
        Images are absent or unreadable.
    RunError
        ``runs`` lacks folds.
    """
    if config.check == "labels":
        return _check_labels(config)
    data = prepare(config.data, Preprocessing(fit=config.data.fit), available_cores())
    folder = atomic_files.output_folder(Path(config.output_dir))
    source, rows = data.source, count_images(data)
    atomic_files.write_csv(folder / "counts.csv", tuple(rows[0]), rows)
    sheet = io.BytesIO()
    draw_contact_sheet(data).savefig(sheet)
    atomic_files.write_bytes(folder / "contact_sheet.png", sheet.getvalue())
    problems = quality.find_problems(data)
    atomic_files.write_csv(folder / "quality.csv", quality.COLUMNS, problems)
    _print_counts(rows)
    findings, _ = audit_split(data)
    print(f"\n{printable(describe_findings(findings, data.split))}")
    counts = Counter(row["problem"] for row in problems)
    listed = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"Image quality: {listed or 'no problem'}{'; see quality.csv' * bool(problems)}.")
    print(f"\nimages       {len(source)} in {len(source.class_names)} classes")
    print(f"fingerprint  {source.fingerprint[:16]} (data)  {data.split_fingerprint[:16]} (split)")
    print(f"wrote        {folder / 'counts.csv'}, {folder / 'quality.csv'}, {folder / 'contact_sheet.png'}")


def _check_labels(config: InspectConfig) -> None:
    """Write labels.html and its tables as CSV, and print how many images there are and the first suspects."""
    from deepbloom.report import labels

    source = load_source(config.data)
    runs = find_folds(Path(config.runs), source)
    checked = labels.check(runs, source.image_ids, source.targets, len(source.class_names))
    found = checked._replace(conflicts=_find_conflicts(config, source))
    folder = atomic_files.output_folder(Path(config.output_dir))
    suspects = _write_checked(folder, source, found)
    labels.write(folder / "labels.html", source, found, config.thumbnails)
    for row in suspects[:SHOWN_SUSPECTS]:
        names = f"{printable(row['given'])}, or {printable(row['suggested'])}?"
        print(f"{row['score'][:5]}  {printable(row['image_id'])}: {names}")
    print(f"\n{len(suspects)} of {count_of(len(source), 'label')} may be wrong; wrote {folder / 'label_suspects.csv'}")
    print(f"{count_of(len(found.conflicts), 'pair')} of near-duplicates with different labels")
    print(f"Look at them in {folder / 'labels.html'}, delete rows of the CSV files that you do not agree with,")
    print("and train with data.labels=FILE or data.exclude=FILE.")


def _find_conflicts(config: InspectConfig, source: ImageSource) -> list[tuple[int, int]]:
    """Return near-duplicates with different labels, of which at least one is wrong, each pair once."""
    prints = fingerprints_of(prepare(config.data, Preprocessing(fit=config.data.fit), available_cores(), source))
    found = find_near_duplicates(prints, prints, (source.targets, source.targets)).tolist()
    return sorted({(min(pair), max(pair)) for pair in enumerate(found) if pair[1] >= 0})


def _write_checked(folder: Path, source: ImageSource, found: LabelCheck) -> list[dict[str, str]]:
    """Write label_suspects.csv, whose rows it returns, label_conflicts.csv and label_outliers.csv."""
    names, labels = source.image_ids, [source.class_names[target] for target in source.targets]
    suspects = [
        {
            "image_id": names[place],
            "given": labels[place],
            "suggested": source.class_names[suggested],
            "score": f"{score:.6f}",
        }
        for place, suggested, score in zip(
            found.suspects.places, found.suspects.suggested, found.suspects.scores, strict=True
        )
    ]
    conflicts = [
        {"image_id": names[a], "given": labels[a], "near_duplicate": names[b], "its_label": labels[b]}
        for a, b in found.conflicts
    ]
    outliers = [
        {"image_id": names[place], "given": labels[place], "distance": f"{distance:.6f}"}
        for place, distance in found.outliers
    ]
    atomic_files.write_csv(folder / "label_suspects.csv", COLUMNS, suspects)
    atomic_files.write_csv(folder / "label_conflicts.csv", CONFLICT_COLUMNS, conflicts)
    atomic_files.write_csv(folder / "label_outliers.csv", OUTLIER_COLUMNS, outliers)
    return suspects


def count_images(data: PreparedData) -> list[dict[str, Any]]:
    """Return a row per class: ``class``, ``total``, ``train``, ``val``, ``test``."""
    names, targets = data.source.class_names, data.source.targets
    counts = {part: np.bincount(targets[getattr(data.split, part)], minlength=len(names)) for part in PARTS}
    return [
        {"class": name, "total": int(sum(count[i] for count in counts.values()))}
        | {part: int(count[i]) for part, count in counts.items()}
        for i, name in enumerate(names)
    ]


def _print_counts(rows: list[dict[str, Any]]) -> None:
    numbers = [key for key in rows[0] if key != "class"]
    total = {"class": "all"} | {key: sum(row[key] for row in rows) for key in numbers}
    rows = [row | {"class": printable(row["class"])} for row in [*rows, total]]
    width = max(len(row["class"]) for row in rows)
    print(f"{'class':<{width}}" + "".join(f"  {key:>5}" for key in numbers))
    for row in rows:
        print(f"{row['class']:<{width}}" + "".join(f"  {row[key]:5d}" for key in numbers))


def draw_contact_sheet(data: PreparedData) -> "Figure":
    """Return a figure with the first images of the classes, spread evenly over the list of classes."""
    from matplotlib.figure import Figure

    source = data.source
    chosen = np.unique(np.linspace(0, len(source.class_names) - 1, SHOWN_CLASSES).round().astype(int))
    figure = Figure(figsize=(1.5 * IMAGES_PER_CLASS + 2.2, 1.5 * len(chosen)), layout="constrained", dpi=100)
    axes = figure.subplots(len(chosen), IMAGES_PER_CLASS, squeeze=False)
    for row, number in zip(axes, chosen, strict=True):
        images = np.flatnonzero(source.targets == number)[:IMAGES_PER_CLASS]
        for cell, index in zip(row, [*images, *[None] * (IMAGES_PER_CLASS - len(images))], strict=True):
            cell.axis("off")
            if index is not None:
                cell.imshow(data.pixels.read(np.array([index]))[0])
        name, place = printable(source.class_names[number]), row[0].transAxes
        row[0].text(-0.08, 0.5, name, ha="right", va="center", transform=place, parse_math=False)
    return figure
