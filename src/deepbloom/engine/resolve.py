"""Resolve, then run: everything that decides a run's result is known and written down before training starts."""

import logging
from collections.abc import MutableMapping
from dataclasses import replace

from deepbloom.config.data_settings import DataConfig, SplitConfig
from deepbloom.config.settings import RunConfig
from deepbloom.data.augment import changes_labels, chosen_ops, is_random
from deepbloom.data.resolution import CopySchedule, train_resolutions
from deepbloom.data.sources import ImageSource, load_source
from deepbloom.data.split import make_split
from deepbloom.device import choose_device
from deepbloom.engine.plan import Plan, can_split, splits_network
from deepbloom.engine.precision import resolve_precision
from deepbloom.engine.trained_data import check_same_split
from deepbloom.errors import ConfigError
from deepbloom.models.freezing import covers
from deepbloom.models.registry import (
    check_resolutions,
    get_architecture,
    read_starting_weights,
    resolved_trainable,
)
from deepbloom.models.timm import timm_name

log = logging.getLogger("deepbloom")

Sources = MutableMapping[str, ImageSource]

DEFAULT_COPIES, DEFAULT_COPIES_PER_RESOLUTION = 4, 2
"""Augmented copies of each image whose features are cached: at a single resolution, and where resolution grows."""


def resolve(config: RunConfig, sources: Sources | None = None) -> Plan:
    """Find the images, their split, the starting weights and everything that the settings leave open.

    Parameters
    ----------
    config : RunConfig
    sources : mapping, optional
        Keeps the images that were found, for further calls with the same data.

    Raises
    ------
    DeepBloomError
        A setting cannot be honored, or images or weights are missing.
    """
    chosen_ops(config.augment)  # mistakes in them show before the images are read
    notes = []
    if config.model.name == "timm" and (name := timm_name(config.model.arch)) != config.model.arch:
        notes.append(f"model.arch={config.model.arch} is timm's {name}.")
        config = replace(config, model=replace(config.model, arch=name))
    device = choose_device(config.train.device)
    precision = resolve_precision(config.train.precision, device)
    preprocessing = replace(get_architecture(config.model.arch).preprocessing, fit=config.data.fit)
    trainable = resolved_trainable(config.model.arch, tuple(config.model.trainable))
    _check_probe(config, trainable)
    weights = read_starting_weights(config.model.arch, config.model.weights)
    schedule = _schedule(config, trainable, preprocessing.size)
    check_resolutions(config.model.arch, schedule.resolutions)
    if config.train.teacher and can_split(config, trainable):
        notes.append("There is no feature cache: the teacher sees the images.")
    elif config.train.weight_bits and can_split(config, trainable):
        notes.append("There is no feature cache: fake quantization rounds in the frozen modules too.")
    elif changes_labels(config.augment) and can_split(config, trainable):
        notes.append("There is no feature cache: mixing the images of a batch changes the input of the frozen modules.")
    source = _find_source(config.data, {} if sources is None else sources)
    split = make_split(source, config.data.split)
    if weights:
        check_same_split(f"model.weights={config.model.weights}", weights.header, source, split)
    if (size := config.train.batch_size) > len(split.train):
        notes.append(f"train.batch_size={size} is reduced to {len(split.train)}, the number of training images.")
        config = replace(config, train=replace(config.train, batch_size=len(split.train)))
    teacher = None
    if config.train.teacher:
        from deepbloom.engine.teacher import read_teacher

        teacher = read_teacher(config, source, split, preprocessing, device)
    plan = Plan(
        config=config,
        device=device,
        source=source,
        split=split,
        trainable=trainable,
        weights=weights,
        preprocessing=preprocessing,
        precision=precision,
        schedule=schedule,
        notes=tuple(notes),
        teacher=teacher,
    )
    return _within_budget(plan) if config.train.minutes else plan


def check_batch_size(plan: Plan) -> None:
    """Raise `ConfigError` if a step of the run leaves one of the processes less than the two images BatchNorm needs."""
    size, count, processes = plan.config.train.batch_size, len(plan.split.train), plan.processes
    smallest = count // -(-count // size)
    if smallest < 2 * processes:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise ConfigError(
            f"train.batch_size={size} makes steps of {smallest} of the {count} training images, and BatchNorm needs at "
            f"least two{each}. Choose a larger one."
        )


def _check_probe(config: RunConfig, trainable: tuple[str, ...]) -> None:
    if not config.train.probe:
        return
    if config.model.weights == "none":
        raise ConfigError(
            "train.probe=true fits the classifier to pretrained features, and model.weights=none gives random ones. "
            "Leave one of them out."
        )
    frozen = [path for path in get_architecture(config.model.arch).head if not covers(trainable, path)]
    if frozen:
        raise ConfigError(
            f"train.probe=true fits the classifier, but model.trainable leaves it frozen: add {', '.join(frozen)}."
        )


def _within_budget(plan: Plan) -> Plan:
    """Return the plan with the epochs that ``train.minutes`` allows."""
    from deepbloom.engine.budget import epochs_within, remembered_speed

    config, split = plan.config, plan.split

    def with_epochs(epochs: int, minutes: float) -> Plan:
        changed = replace(config, train=replace(config.train, epochs=epochs, minutes=minutes))
        return replace(plan, config=changed, schedule=_schedule(changed, plan.trainable, plan.preprocessing.size))

    epochs = epochs_within(
        config.train.minutes,
        remembered_speed(plan),
        (len(split.train), len(split.val), len(split.test)),
        lambda epochs: with_epochs(epochs, config.train.minutes).schedule,
        plan.splits_network and config.train.feature_cache == "auto",
    )
    note = f"train.minutes={config.train.minutes:g} gives {epochs} epochs on this machine."
    return replace(with_epochs(epochs, 0.0), notes=(*plan.notes, note))


def _find_source(config: DataConfig, sources: Sources) -> ImageSource:
    key = repr(replace(config, split=SplitConfig(), fit=DataConfig.fit))
    if key not in sources:
        sources[key] = load_source(config)
    return sources[key]


def _schedule(config: RunConfig, trainable: tuple[str, ...], size: int) -> CopySchedule:
    resolutions = train_resolutions(config.augment, size, config.train.epochs)
    return CopySchedule(config.train.epochs, resolutions, _feature_copies(config, trainable, resolutions))


def _feature_copies(config: RunConfig, trainable: tuple[str, ...], resolutions: tuple[int, ...]) -> int:
    """Return the augmented copies of each image that are shown in turn; 0 for new ones in each epoch.

    As long as ``train.minutes`` leaves the epochs open, there are at most as many as these can show.
    """
    wanted = config.train.feature_copies
    if not is_random(config.augment):
        if wanted > 1:
            raise ConfigError(f"train.feature_copies={wanted} makes equal copies, since no augmentation is random.")
        return 1
    if wanted:
        shown = max(CopySchedule(config.train.epochs, resolutions).epochs_per_stage)
        if wanted > shown and not config.train.minutes:
            epochs = f"{shown} epoch{'s' * (shown > 1)}{' at one resolution' * (len(resolutions) > 1)}"
            raise ConfigError(f"train.feature_copies={wanted} is more than {epochs} can show. Give {shown} or fewer.")
        return min(wanted, shown)
    if config.train.feature_cache == "off" or not splits_network(config, trainable):
        return 0
    return DEFAULT_COPIES if len(resolutions) == 1 else DEFAULT_COPIES_PER_RESOLUTION
