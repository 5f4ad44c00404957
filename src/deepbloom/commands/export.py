"""``deepbloom export``: write a file for other runtimes, and check that it gives the same predictions."""

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepbloom.config.export_settings import ExportConfig
from deepbloom.device import choose_device, use_cores
from deepbloom.engine.checkpoint import find_model_file, read_model
from deepbloom.engine.predictor import Predictor
from deepbloom.errors import DisagreementError
from deepbloom.export import card, reference
from deepbloom.export.formats import FORMATS, Job, check_format, check_packages
from deepbloom.export.opening import open_exported
from deepbloom.export.sample import find_samples
from deepbloom.export.verify import accuracy_rows, compare, describe_measurement, measure, speed_rows
from deepbloom.export.web import PAGE
from deepbloom.report.formatting import align, format_bytes
from deepbloom.runs import files
from deepbloom.runs import folder as run_dir

log = logging.getLogger("deepbloom")

DISAGREES = "disagrees-"
"""Begins the names of files that do not agree with their checkpoint."""


def run(config: ExportConfig) -> None:
    """Write the file, export.json and README.md, and print what was measured.

    Raises
    ------
    DeepBloomError
        The checkpoint, the format, the images or the folder cannot be used.
    DisagreementError
        The file does not give the checkpoint's predictions; its name says so.
    """
    check_format(config.format, config.precision)
    check_packages(config.format, config.precision)
    use_cores()
    trained = read_model(config.ckpt)
    trained.place(choose_device("cpu"))
    samples = find_samples(config, trained)
    folder = files.output_folder(_find_folder(config))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export.") as temporary:
        job = Job(
            trained,
            config.precision,
            Path(temporary),
            samples.calibration,
            samples.control,
            samples.notes,
            samples.validation,
        )
        written = FORMATS[config.format].write(job)
        exported = open_exported(written[0])
        found = compare(trained, exported, samples.sample, config.precision)
        verified = found.pop("verified")
        use_cores(exported.num_threads)
        log.info("measuring latency and throughput")
        found |= measure(
            trained, exported, written[0], _in_fp32(job, config.format) if config.precision == "int8" else None
        )
        sizes = {path.name: path.stat().st_size for path in written}
        names = _move(written, folder, verified)
    content = _content(config, trained.label, names, sizes, verified) | found | {"notes": job.notes}
    files.write_json(folder / run_dir.EXPORTED, content)
    files.write_bytes(folder / reference.NAME, reference.reference_source(trained.preprocessing).encode())
    files.write_bytes(folder / card.NAME, card.model_card(trained, content).encode("utf-8", "backslashreplace"))
    print(_table(content))
    print(folder / names[0])
    if not verified:
        raise DisagreementError(
            f"{folder / names[0]} does not give the predictions of {config.ckpt}: {found['changed']} of "
            f"{found['count']} differ, a probability by up to {found['max_probability_difference']:.2g}. "
            "Use precision=fp32, or report it as a bug if that was fp32."
        )


def _in_fp32(job: Job, name: str) -> Predictor:
    """Return the network in fp32 under the same runtime, to compare its latency with."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        plain = replace(job, precision="fp32", folder=Path(temporary), notes=[])
        return open_exported(FORMATS[name].write(plain)[0])


def _move(written: Sequence[Path], folder: Path, verified: bool) -> list[str]:
    """Move files to a folder and return their names there; files of an earlier export with another verdict go."""
    kept, removed = ("", DISAGREES) if verified else (DISAGREES, "")
    for path in written:
        (folder / f"{removed}{path.name}").unlink(missing_ok=True)
    for path in written:
        os.replace(path, folder / f"{kept}{path.name}")
    return [f"{kept}{path.name}" for path in written]


def _find_folder(config: ExportConfig) -> Path:
    if config.output_dir:
        return Path(config.output_dir)
    given, name = Path(config.ckpt), f"export-{config.format}-{config.precision}"
    if given.is_dir():
        return given / name
    return Path("outputs") / f"export-{find_model_file(given).resolve().parent.name}-{config.format}-{config.precision}"


def _content(
    config: ExportConfig, label: str, names: list[str], sizes: dict[str, int], verified: bool
) -> dict[str, Any]:
    network = sum(size for name, size in sizes.items() if name != PAGE)  # which the page repeats beside its runtime
    page = {"page_bytes": sizes[PAGE]} if PAGE in sizes else {}
    return {
        "format": config.format,
        "precision": config.precision,
        "files": names,
        "size_bytes": network,
        "verified": verified,
        "model": label,
        **page,
    } | describe_measurement(config.ckpt)


def _table(found: dict[str, Any]) -> str:
    rows = [["", "checkpoint, torch fp32", f"{found['format']} {found['precision']}"]]
    rows.append(["size", format_bytes(found["checkpoint_bytes"]), format_bytes(found["size_bytes"])])
    if "page_bytes" in found:
        rows.append(["size of the page", "", format_bytes(found["page_bytes"])])
    rows += accuracy_rows(found)
    rows.append(["largest difference of a probability", "", f"{found['max_probability_difference']:.2g}"])
    rows += speed_rows(found)
    if found["peak_memory_bytes"]:
        rows.append(["peak memory, one image", "", format_bytes(found["peak_memory_bytes"])])
    return align(rows)
