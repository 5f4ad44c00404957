"""``deepbloom compress``: a smaller network, measured again on the whole test split."""

import logging
from pathlib import Path
from typing import Any

from deepbloom.commands.train import train
from deepbloom.config.export_settings import CompressConfig
from deepbloom.config.schema import check_choice
from deepbloom.cost import count_macs
from deepbloom.device import use_cores
from deepbloom.engine.checkpoint import Trained, find_model_file
from deepbloom.engine.predictor import Predictor
from deepbloom.errors import DisagreementError
from deepbloom.export.compression import METHODS, CompressionJob, check_checkpoints
from deepbloom.export.opening import find_file, open_predictor
from deepbloom.export.verify import Sample, accuracy_rows, compare, describe_measurement, measure, speed_rows
from deepbloom.report.formatting import (
    align,
    format_bytes,
    format_count,
    format_points,
)
from deepbloom.runs import files
from deepbloom.runs import folder as run_dir

log = logging.getLogger("deepbloom")


def run(config: CompressConfig) -> None:
    """Make the smaller network, write compress.json beside it, and print what was measured.

    Raises
    ------
    DeepBloomError
        The checkpoint, its data, the settings or the folder cannot be used.
    DisagreementError
        The smaller network loses more accuracy than its method may.
    """
    check_choice("method", config.method, tuple(METHODS))
    checkpoints = check_checkpoints(config)
    from deepbloom.cli.compose import recipe  # the only settings that a command composes: those of a training

    job = CompressionJob(config, _find_folder(config, checkpoints[0]), recipe, train)
    use_cores()
    method = METHODS[config.method]
    made = find_file(method.make(job))
    before, after = open_predictor(checkpoints[0], "cpu"), open_predictor(str(made), "cpu")
    data = job.data
    sample = Sample(data.pixels, data.split.test, data.source.targets[data.split.test], "test split")
    found = compare(before, after, sample, config.method, method.most_lost)
    log.info("measuring latency and throughput")
    found |= measure(before, after, made)
    content = _content(config, checkpoints, before, after, made) | found
    if config.method == "int8":
        content["fine_tuned"] = after.header.get("run_id") != before.header.get("run_id")
    files.write_json(job.folder / run_dir.COMPRESSED, content)
    print(_table(content))
    print(job.folder)
    if not content["verified"]:
        raise DisagreementError(
            f"{made} loses {format_points(-found['difference'])} points of accuracy, and method={config.method} may "
            f"lose {format_points(method.most_lost)}. Compress less, or let it train longer."
        )


def _find_folder(config: CompressConfig, ckpt: str) -> Path:
    if config.output_dir:
        return Path(config.output_dir)
    run_folder = find_model_file(ckpt).resolve().parent
    if config.method == "int8":
        return run_folder / "compress-int8"
    detail = f"{config.target_macs:g}" if config.method == "prune" else config.student
    return run_folder.with_name(f"{run_folder.name}-{config.method}-{detail}-s{config.seed}")


def _content(
    config: CompressConfig, checkpoints: list[str], before: Predictor, after: Predictor, made: Path
) -> dict[str, Any]:
    binary = made.with_suffix(".bin")
    return {
        "method": config.method,
        "model": after.label,
        "files": [made.name],
        "checkpoint_model": before.label,
        "size_bytes": made.stat().st_size + (binary.stat().st_size if made.suffix == ".xml" else 0),
        "macs": _macs(after) or _macs(before),
        "checkpoint_macs": _macs(before),
    } | describe_measurement(checkpoints[0])


def _macs(predictor: Predictor) -> int:
    """Return the multiply-accumulates of a network; 0 for an exported file."""
    return count_macs(predictor.network, predictor.preprocessing.size) if isinstance(predictor, Trained) else 0


def _table(found: dict[str, Any]) -> str:
    method = f"{found['method']}, fine-tuned" if found.get("fine_tuned") else found["method"]
    rows = [
        ["", found["checkpoint_model"], f"{method} ({found['files'][0]})"],
        ["size", format_bytes(found["checkpoint_bytes"]), format_bytes(found["size_bytes"])],
        ["multiply-accumulates", format_count(found["checkpoint_macs"]), format_count(found["macs"])],
        *accuracy_rows(found),
        *speed_rows(found),
    ]
    return align(rows)
