"""``deepbloom data``: what images there are, how they are split, and whether they can be read."""

import io
import logging
from pathlib import Path

import numpy as np

from deepbloom.config.commands import InspectConfig
from deepbloom.data.dataset import prepare
from deepbloom.data.images import printable
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.device import available_cores
from deepbloom.runs import files as atomic_files

log = logging.getLogger("deepbloom")

SHOWN_CLASSES = 12
IMAGES_PER_CLASS = 6


def run(config: InspectConfig) -> None:
    """Decode every image once, print the counts, and write counts.csv and contact_sheet.png.

    Raises
    ------
    DataError
        Images are absent or unreadable.
    """
    data = prepare(config.data, Preprocessing(), available_cores())
    folder = atomic_files.make_folder(Path(config.output_dir))
    source, split = data.source, data.split
    parts = {"train": split.train, "val": split.val, "test": split.test}
    counts = {part: np.bincount(source.targets[of], minlength=len(source.class_names)) for part, of in parts.items()}
    rows = [
        {"class": name, "total": int(sum(c[i] for c in counts.values()))} | {p: int(c[i]) for p, c in counts.items()}
        for i, name in enumerate(source.class_names)
    ]
    atomic_files.write_csv(folder / "counts.csv", ("class", "total", *parts), rows)
    sheet = io.BytesIO()
    draw_contact_sheet(data).savefig(sheet)
    atomic_files.write_bytes(folder / "contact_sheet.png", sheet.getvalue())
    _print_counts(rows, parts)
    print(f"\nimages     {len(source)} in {len(source.class_names)} classes")
    print(f"fingerprint  {source.fingerprint[:16]} (data)  {data.split_fingerprint[:16]} (split)")
    print(f"wrote        {folder / 'counts.csv'}, {folder / 'contact_sheet.png'}")


def _print_counts(rows: list[dict], parts: dict[str, np.ndarray]) -> None:
    rows = [row | {"class": printable(row["class"])} for row in rows]
    width = max(len(row["class"]) for row in rows)
    print(f"{'class':<{width}}  total  train    val   test")
    for row in rows:
        print(f"{row['class']:<{width}}  {row['total']:5d}  {row['train']:5d}  {row['val']:5d}  {row['test']:5d}")
    sums = [sum(row[key] for row in rows) for key in ("total", *parts)]
    print(f"{'all':<{width}}  {sums[0]:5d}  {sums[1]:5d}  {sums[2]:5d}  {sums[3]:5d}")


def draw_contact_sheet(data):
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
