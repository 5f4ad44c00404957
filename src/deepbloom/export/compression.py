"""The registry of compression methods: one function with a decorator per method."""

import logging
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from deepbloom.config.export_settings import CompressConfig
from deepbloom.config.schema import as_list
from deepbloom.config.settings import RunConfig
from deepbloom.data.dataset import PreparedData, choose_images
from deepbloom.device import choose_device, has_vnni
from deepbloom.engine.checkpoint import MODEL_KIND, Trained, find_model_file, read_model, read_tensors, write_tensors
from deepbloom.engine.trained_data import prepare_trained_data, trained_data_config
from deepbloom.errors import CheckpointError, ConfigError, RunError
from deepbloom.export.opening import open_predictor
from deepbloom.export.sample import CALIBRATION, CONTROL
from deepbloom.export.verify import MOST_LOST, Sample, compare, measure
from deepbloom.report.formatting import align, format_bytes, format_milliseconds, format_percent, format_points
from deepbloom.runs import files
from deepbloom.runs import folder as run_dir

log = logging.getLogger("deepbloom")


@dataclass(frozen=True)
class CompressionJob:
    """What is compressed, and into which folder."""

    config: CompressConfig
    folder: Path
    recipe: Callable[..., RunConfig]
    """`deepbloom.recipe`."""
    train: Callable[[RunConfig], Path]
    """`deepbloom.train`."""

    @property
    def checkpoints(self) -> list[str]:
        return [str(path) for path in as_list(self.config.ckpt)]

    @property
    def ckpt(self) -> str:
        """The checkpoint that is compressed, or, of several, the first."""
        return self.checkpoints[0]

    @cached_property
    def trained(self) -> Trained:
        """Its network, on the CPU."""
        trained = read_model(self.ckpt)
        trained.place(choose_device("cpu"))
        return trained

    @cached_property
    def data(self) -> PreparedData:
        """The data that it was trained with."""
        return prepare_trained_data(self.ckpt, self.trained, self.config.data)

    def run_config(self, name: str, label: str, **changes: object) -> RunConfig:
        """Return the settings of a run in the job's folder: a recipe on the data of the checkpoint, with changes."""
        given = self.config
        groups = {key: getattr(given, key) for key in ("train", "augment", "optimizer", "scheduler")}
        config = self.recipe(name, seed=given.seed, output_dir=str(self.folder), **(groups | changes))
        data = trained_data_config(self.ckpt, self.trained, given.data)
        return replace(config, data=data, model=replace(config.model, name=label))

    def continued(self, label: str, weights: Path, **changes: object) -> RunConfig:
        """Return the settings of a run in which what the checkpoint trained is trained again, from given weights."""
        name, header = _base(self.trained), self.trained.header
        trainable = [path or "all" for path in header["trainable"]]
        arch = {"model.arch": header["arch"]} if name == "timm" else {}
        model = {"model.weights": str(weights), "model.trainable": trainable, **arch}
        return self.run_config(name, label, **model, **changes)


@dataclass(frozen=True)
class Compression:
    """A way to make a network smaller."""

    name: str
    most_lost: float
    """Accuracy that it may lose, as a fraction."""
    several: bool
    """Whether it takes several checkpoints."""
    make: Callable[[CompressionJob], Path]
    """Returns the run directory or the file of the smaller network."""


RUNTIMES = ("onnx", "openvino")
"""Formats that int8 is tried in."""
FINE_TUNED = "fine-tuned"
"""Folder of the run that fine-tunes for int8."""
FINE_TUNING: dict[str, Any] = {
    "optimizer": "adamw",
    "optimizer.lr": 1e-4,
    "scheduler": "cosine",
    "augment.train_resolution": 1.0,
    "augment.first_resolution": 0.0,
    "train.precision": "fp32",
}
"""How it differs from the recipe: a small rate, images of the size that the file will see, and exact sums."""
LEAST_EPOCHS, LEAST_STEPS = 3, 300
"""How long it takes at least."""
METHODS: dict[str, Compression] = {}


def compression(name: str, *, most_lost: float, several: bool = False) -> Callable[..., Any]:
    """Register a function that makes a smaller network; see `Compression` for the parameters."""

    def register(make: Callable[[CompressionJob], Path]) -> Callable[[CompressionJob], Path]:
        METHODS[name] = Compression(name, most_lost, several, make)
        return make

    return register


@compression("int8", most_lost=MOST_LOST)
def int8(job: CompressionJob) -> Path:
    """Write the network in 8-bit integers for each runtime, and keep the best on validation images.

    Where none keeps the accuracy, the network is fine-tuned with the rounding errors of int8, and written again.
    """
    from deepbloom.export.formats import check_packages

    for name in RUNTIMES:
        check_packages(name, "int8")
    files.output_folder(job.folder)
    with tempfile.TemporaryDirectory(dir=job.folder, prefix=".compress.") as temporary:
        found = _try_runtimes(job, job.trained, Path(temporary))
        if not any(tried["verified"] for tried in found):
            log.info("Neither keeps the accuracy: the network is fine-tuned with the rounding errors of int8.")
            tuned = read_model(job.train(_fine_tuning(job)))
            tuned.place(choose_device("cpu"))
            found += _try_runtimes(job, tuned, Path(temporary) / FINE_TUNED)
        written: Sequence[Path] = min(found, key=_rank)["files"]
        for path in written:
            os.replace(path, job.folder / path.name)
    return job.folder / written[0].name


def _try_runtimes(job: CompressionJob, trained: Trained, folder: Path) -> list[dict[str, Any]]:
    """Write a network in int8 for each runtime, and compare each file with the checkpoint on validation images."""
    from deepbloom.export.formats import FORMATS, Job

    split, targets = job.data.split, job.data.source.targets
    calibration = choose_images(job.data, split.train, CALIBRATION, 0)
    control = choose_images(job.data, split.val, 0, 0)
    sample = Sample(job.data.pixels, control, targets[control], "validation split")
    read = partial(job.data.pixels.read, calibration)
    try_on = partial(job.data.pixels.read, control[:CONTROL])
    title = "on validation images" if trained is job.trained else "on validation images, fine-tuned"
    rows, found = [[title, "accuracy", "difference, points", "changed", "size", "latency"]], []
    for name in RUNTIMES:
        written = FORMATS[name].write(Job(trained, "int8", files.make_folder(folder / name), read, try_on, [], sample))
        exported = open_predictor(str(written[0]))
        tried = compare(job.trained, exported, sample, "int8") | measure(job.trained, exported, written[0])
        tried |= {"size": sum(path.stat().st_size for path in written), "files": written}
        found.append(tried)
        rows.append([name, *_row(tried)])
    log.info("%s", align(rows))
    return found


def _fine_tuning(job: CompressionJob) -> RunConfig:
    """Return the settings of a short run under fake quantization, in which the trained modules train on.

    It learns from labels, as the checkpoint did. As a teacher the checkpoint gives calibrated probabilities, for which
    the network would first have to scale its logits.
    """
    label = f"{job.trained.label}-quantization-aware"
    config = job.continued(label, find_model_file(job.ckpt), **FINE_TUNING)
    epochs = max(LEAST_EPOCHS, math.ceil(LEAST_STEPS * config.train.batch_size / len(job.data.split.train)))
    bits = 8 if has_vnni() else 7
    train = replace(config.train, epochs=epochs, weight_bits=bits)
    return replace(config, train=train, output_dir=str(job.folder / FINE_TUNED))


def _rank(tried: dict[str, Any]) -> tuple[bool, float]:
    """Sort first the fastest of the files that keep the accuracy, then the most accurate."""
    return not tried["verified"], tried["latency_ms"] if tried["verified"] else -tried["difference"]


def _row(tried: dict[str, Any]) -> list[str]:
    changed = f"{tried['changed']} of {tried['count']}"
    points, size = format_points(tried["difference"]), format_bytes(tried["size"])
    return [format_percent(tried["accuracy"]), points, changed, size, format_milliseconds(tried["latency_ms"])]


@compression("prune", most_lost=0.01)
def prune(job: CompressionJob) -> Path:
    """Remove channels, write what is left as ``pruned.safetensors``, and fine-tune the modules that were trained."""
    from deepbloom.export.prune import prune as take_channels

    start = job.folder / run_dir.PRUNED
    fact = {"of": files.digest(find_model_file(job.ckpt)), "target_macs": job.config.target_macs}
    if not start.exists():
        chosen = choose_images(job.data, job.data.split.train, CALIBRATION, 0)
        widths = take_channels(job.trained, job.data.pixels.read(chosen), job.config.target_macs)
        files.make_folder(job.folder)
        write_tensors(start, job.trained.network.state_dict(), job.trained.header | {"widths": widths, "pruned": fact})
    elif read_tensors(start, MODEL_KIND)[1].get("pruned") != fact:
        raise RunError(f"{start} was pruned from another network or to another target. Choose another output_dir=PATH.")
    return job.train(job.continued(f"{job.trained.label}-pruned-{job.config.target_macs:g}", start))


@compression("distill", most_lost=1.0, several=True)
def distill(job: CompressionJob) -> Path:
    """Let a small network learn the probabilities of the checkpoint, or the mean of those of several."""
    config = job.run_config(job.config.student, f"{job.config.student}-distilled")
    return job.train(replace(config, train=replace(config.train, teacher=job.checkpoints)))


def _base(trained: Trained) -> str:
    """Return the name of the recipe of a run, pruned or distilled ones included."""
    return trained.label.partition("-")[0]


def check_checkpoints(config: CompressConfig) -> list[str]:
    """Return the checkpoints.

    Raises
    ------
    CheckpointError
        One is absent.
    ConfigError
        The method takes no more than one.
    """
    checkpoints = [str(path) for path in as_list(config.ckpt)]
    if len(checkpoints) > 1 and not METHODS[config.method].several:
        raise ConfigError(f"method={config.method} takes one checkpoint, not {len(checkpoints)}.")
    for ckpt in checkpoints:
        if not find_model_file(ckpt).is_file():
            raise CheckpointError(f"No checkpoint at {ckpt}. Give a run directory or its {run_dir.MODEL}.")
    return checkpoints
