"""Whether an exported file gives the predictions of its checkpoint, and what it costs, measured in one process."""

import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepbloom.data.pixel_cache import Pixels
from deepbloom.device import choose_device, device_name
from deepbloom.engine.checkpoint import find_model_file
from deepbloom.engine.predictor import Predictor
from deepbloom.metrics import softmax
from deepbloom.processes import module_command
from deepbloom.report.formatting import format_milliseconds, format_percent, format_points
from deepbloom.report.statistics import compare_runs, wilson_interval
from deepbloom.runs.provenance import collect_versions

BOUNDS = {"fp32": (1.0, 1e-4), "fp16": (0.99, 0.02)}
"""Least share of equal predictions, and largest difference of a probability."""
MOST_LOST = 0.005
"""Accuracy that int8 may lose. A single image may always be lost."""
LEAST_EQUAL = 0.95
"""Share of equal predictions that int8 needs where the classes of the images are not known."""
PASSES, WARM_UP, MAX_SECONDS = 60, 5, 8.0
LARGE_BATCH = 32


@dataclass(frozen=True)
class Sample:
    """Images on which file and checkpoint are compared: N of a source, with their classes where they are known."""

    pixels: Pixels
    indices: np.ndarray
    targets: np.ndarray | None
    name: str


def compare(
    checkpoint: Predictor, exported: Predictor, sample: Sample, precision: str, most_lost: float = MOST_LOST
) -> dict[str, Any]:
    """Return how far the predictions of both agree, and their accuracies.

    ``agreement`` is the share of equal predictions; ``verified`` says whether it is enough for the precision; where
    that has no bound of its own, whether at most ``most_lost`` of the accuracy is lost.
    ``difference`` is the accuracy of the file minus that of the checkpoint, with its interval (`compare_runs`).
    """
    before, after = (
        softmax(predictor.all_logits(sample.pixels, sample.indices), predictor.temperature)
        for predictor in (checkpoint, exported)
    )
    equal = before.argmax(1) == after.argmax(1)
    largest = float(np.abs(before - after).max())
    found: dict[str, Any] = {
        "images": sample.name,
        "count": len(equal),
        "agreement": float(equal.mean()),
        "changed": int((~equal).sum()),
        "max_probability_difference": largest,
    }
    lost = None
    if sample.targets is not None:
        correct = [values.argmax(1) == sample.targets for values in (before, after)]
        low, high = wilson_interval(correct[1].sum(), len(equal))
        paired = compare_runs(correct[1], correct[0])
        lost = int(correct[0].sum()) - int(correct[1].sum())
        found |= {"accuracy": float(correct[1].mean()), "low": float(low), "high": float(high)}
        found |= {"checkpoint_accuracy": float(correct[0].mean()), "difference": paired.estimate}
        found |= {"difference_low": paired.low, "difference_high": paired.high, "p_value": paired.p_value}
    return found | {"verified": _is_enough(precision, most_lost, equal, largest, lost)}


def _is_enough(precision: str, most_lost: float, equal: np.ndarray, largest: float, lost: int | None) -> bool:
    if not np.isfinite(largest):
        return False
    if precision in BOUNDS:
        least, most = BOUNDS[precision]
        return bool(equal.mean() >= least and largest <= most)
    if lost is None:
        return bool(equal.mean() >= LEAST_EQUAL)
    return lost <= max(1, most_lost * len(equal))


def measure(checkpoint: Predictor, exported: Predictor, file: Path, fp32: Predictor | None = None) -> dict[str, Any]:
    """Return latency (median and 95th percentile, in ms, one image) and throughput (images per second, batches of 32).

    ``fp32`` is the network in fp32 under the runtime of ``exported``, if that has another precision. All are measured
    in turns, from uint8 pixels to logits, with the same number of threads. ``peak_memory_bytes`` is that of a process
    of its own that opens the file and classifies one image.
    """
    size = exported.preprocessing.size
    generator = np.random.default_rng(0)
    one, many = (generator.integers(0, 256, (count, size, size, 3), np.uint8) for count in (1, LARGE_BATCH))
    predictors = {"torch_": checkpoint, "": exported} | ({"fp32_": fp32} if fp32 else {})
    single = _time([partial(predictor.logits, one) for predictor in predictors.values()], PASSES)
    batch = _time([partial(predictor.logits, many) for predictor in predictors.values()], max(2, PASSES // 10))
    found: dict[str, Any] = {}
    for prefix, times, batches in zip(predictors, single, batch, strict=True):
        found[f"{prefix}latency_ms"] = round(1000 * float(np.median(times)), 3)
        found[f"{prefix}latency_p95_ms"] = round(1000 * float(np.percentile(times, 95)), 3)
        found[f"{prefix}images_per_second"] = round(LARGE_BATCH / float(np.median(batches)), 2)
    return found | {"peak_memory_bytes": _peak(file)}


def describe_measurement(checkpoint: str) -> dict[str, Any]:
    """Return which checkpoint was compared, and the machine, its threads and versions that `measure` ran with."""
    model_file = find_model_file(checkpoint)
    return {
        "checkpoint": str(model_file.resolve()),
        "checkpoint_bytes": model_file.stat().st_size,
        "num_threads": torch.get_num_threads(),
        "processor": device_name(choose_device("cpu")),
        "machine": platform.machine(),
        "versions": collect_versions(),
    }


def accuracy_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return what `compare` found as rows of a table: title, checkpoint, file."""
    rows = []
    if "accuracy" in found:
        interval = f"{format_percent(found['low'])} to {format_percent(found['high'])}"
        accuracy = f"{format_percent(found['accuracy'])} ({interval})"
        rows.append(["accuracy", format_percent(found["checkpoint_accuracy"]), accuracy])
        span = f"{format_points(found['difference_low'])} to {format_points(found['difference_high'])}"
        rows.append(["difference, points", "", f"{format_points(found['difference'])} ({span})"])
    return [*rows, ["predictions changed", "", f"{found['changed']} of {found['count']}"]]


def speed_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return what `measure` found and `describe_measurement` as rows of a table: title, checkpoint, file."""
    titles: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("latency, one image", "latency_ms", format_milliseconds),
        ("latency, 95th percentile", "latency_p95_ms", format_milliseconds),
        ("images per second, batches of 32", "images_per_second", "{:.1f}".format),
    )
    rows = [["threads", str(found["num_threads"]), str(found["num_threads"])]]
    rows += [[title, show(found[f"torch_{key}"]), show(found[key])] for title, key, show in titles]
    if "fp32_latency_ms" in found:
        ratio = found["latency_ms"] / found["fp32_latency_ms"]
        rows.append(["latency, of fp32 under the same runtime", "", f"{ratio:.2f}"])
    return rows


def _time(calls: Sequence[Callable[[], object]], passes: int) -> list[list[float]]:
    """Return the seconds of each pass of each call, taken in turns after a warm-up."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(min(WARM_UP, passes)):
        for call in calls:
            call()
    deadline = time.perf_counter() + MAX_SECONDS
    while len(times[0]) < passes and (not times[0] or time.perf_counter() < deadline):
        for call, seconds in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
    return times


def _peak(file: Path) -> int | None:
    command = module_command("deepbloom.export.peak", str(file))
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    text = done.stdout.strip()
    return int(text) if done.returncode == 0 and text.isdigit() else None
