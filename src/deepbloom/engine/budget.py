"""A time budget: how many epochs `train.minutes` allows on this machine."""

import hashlib
import json
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepbloom.data.augment import training_inputs
from deepbloom.data.cache_folder import cache_folder, keep_newest
from deepbloom.data.preprocessing import normalize
from deepbloom.data.resolution import AugmentedCopy, CopySchedule
from deepbloom.device import available_cores, device_name, left_as_found, synchronize, use_cores
from deepbloom.engine.optim import make_optimizer
from deepbloom.engine.plan import Plan
from deepbloom.engine.precision import forward
from deepbloom.errors import ConfigError, RunError
from deepbloom.models.cutting import cut
from deepbloom.models.freezing import train_mode
from deepbloom.models.registry import create_model, get_architecture
from deepbloom.runs import files

log = logging.getLogger("deepbloom")

PASSES = 3
"""Passes that are timed, after one for warm-up; the median counts."""
REMEMBERED = 100
"""Measurements kept in the cache folder."""
MOST_EPOCHS = 100_000


@dataclass(frozen=True)
class Speed:
    """Seconds per image of the parts of a run, by resolution in pixels.

    Attributes
    ----------
    features : dict
        To augment an image and run the frozen modules in front of the first trained one; 0 where there are none.
    step : dict
        Of a training step.
    validation : float
        Of the modules from the first trained one on.
    test : float
        Of the whole network.
    """

    features: dict[int, float]
    step: dict[int, float]
    validation: float
    test: float

    def run_seconds(self, schedule: CopySchedule, cached: bool, counts: tuple[int, int, int]) -> float:
        """Return the time of a run over this many train, validation and test images."""
        train, val, test = counts
        validations = 1 if cached else schedule.epochs
        seconds = val * (validations * self.features[max(self.features)] + schedule.epochs * self.validation)
        for resolution, epochs in zip(schedule.resolutions, schedule.epochs_per_stage, strict=True):
            prepared = min(schedule.copies, epochs) if cached else epochs
            seconds += train * (prepared * self.features[resolution] + epochs * self.step[resolution])
        return seconds + test * self.test


def epochs_within(
    minutes: float, speed: Speed, counts: tuple[int, int, int], schedule: Callable[[int], CopySchedule], cached: bool
) -> int:
    """Return the most epochs whose run, with features, validation and test, takes at most ``minutes``.

    Parameters
    ----------
    minutes : float
    speed : Speed
    counts : (int, int, int)
        Train, validation and test images.
    schedule : function
        From a number of epochs to the copies that they show.
    cached : bool
        Whether features are computed once instead of in every step.

    Raises
    ------
    ConfigError
        A single epoch takes longer.
    """

    def fits(epochs: int) -> bool:
        return speed.run_seconds(schedule(epochs), cached, counts) <= 60 * minutes

    if not fits(1):
        needed = speed.run_seconds(schedule(1), cached, counts) / 60
        raise ConfigError(f"train.minutes={minutes:g}: one epoch takes about {needed:.2g} minutes on this machine.")
    low, high = 1, 2
    while high < MOST_EPOCHS and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def remembered_speed(plan: Plan) -> Speed:
    """Return the speed of training on this machine, which is measured once and then read from the cache folder.

    So the same command gives the same number of epochs, and finds its run, even on a busier machine. Reading and
    decoding image files is not part of it.
    """
    config, train = plan.config, plan.config.train
    threads = train.num_threads or available_cores()
    key = json.dumps(
        [
            [config.model.arch, plan.trainable, len(plan.source.class_names), train.batch_size, plan.splits_network],
            [asdict(config.optimizer), asdict(config.augment), asdict(plan.preprocessing), plan.widths],
            [device_name(plan.device), plan.precision, threads, torch.__version__],
        ]
    )
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    try:
        return _read(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    with left_as_found(plan.device):
        use_cores(threads)
        speed = _measure(plan)
    try:
        path = _folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, asdict(speed))
        keep_newest(path.parent, REMEMBERED)
    except (OSError, RunError):
        log.warning(
            "The cache folder cannot be written, so train.minutes measures the speed at every start, and may give "
            "another number of epochs. Set DEEPBLOOM_CACHE to a folder that can be written."
        )
    return speed


def _folder() -> Path:
    return cache_folder() / "speed"


def _read(name: str) -> Speed:
    content = json.loads((_folder() / name).read_text("utf-8"))
    features, step = ({int(k): float(v) for k, v in content[part].items()} for part in ("features", "step"))
    return Speed(features, step, float(content["validation"]), float(content["test"]))


def _measure(plan: Plan) -> Speed:
    """Time the parts of a run on black images."""
    config, device, preprocessing = plan.config, plan.device, plan.preprocessing
    batch, size, num_classes = config.train.batch_size, preprocessing.size, len(plan.source.class_names)
    model = create_model(config.model.arch, num_classes, plan.trainable, widths=plan.widths)
    model.to(device).to(memory_format=torch.channels_last)
    pixels = torch.zeros(batch, size, size, 3, dtype=torch.uint8, device=device)
    whole = normalize(pixels, preprocessing)
    train_mode(model, plan.trainable)
    parts = cut(model, plan.trainable, whole[:1]) if plan.splits_network else None
    prefix: nn.Module = parts.prefix if parts else nn.Identity()
    tail: nn.Module = parts.tail if parts else model
    optimizer = make_optimizer(model, config.optimizer, get_architecture(config.model.arch).head)
    targets = torch.arange(batch, device=device) % num_classes

    def computed(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return forward(prefix, inputs, plan.precision)

    def prepare(resolution: int) -> Tensor:
        copy = AugmentedCopy(0, resolution)
        places = torch.arange(batch)
        return computed(training_inputs(pixels, places, copy, config.seed, config.augment, preprocessing))

    def step(inputs: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(forward(tail, inputs, plan.precision), targets).backward()
        optimizer.step()

    def seconds(work: Callable[[], object]) -> float:
        times = []
        for _ in range(1 + PASSES):
            synchronize(device)
            started = time.perf_counter()
            work()
            synchronize(device)
            times.append(time.perf_counter() - started)
        return statistics.median(times[1:]) / batch

    resolutions = plan.schedule.resolutions
    sides = sorted({*resolutions, size})
    features = {side: seconds(partial(prepare, side)) for side in sides}
    steps = {side: seconds(partial(step, prepare(side))) for side in resolutions}
    model.eval()
    with torch.no_grad():
        validation = seconds(partial(forward, tail, computed(whole), plan.precision))
        test = seconds(partial(forward, model, whole, "fp32"))
    return Speed(features, steps, validation, test)
