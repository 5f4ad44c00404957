"""The data that a network was trained and tested with, found again."""

from collections.abc import Mapping
from typing import Any

from deepbloom.config.data_settings import DataConfig
from deepbloom.config.schema import check_read, flatten, from_dict
from deepbloom.data.dataset import PreparedData, prepare
from deepbloom.data.sources import ImageSource, find_source, flowers102
from deepbloom.data.split import Split
from deepbloom.device import available_cores
from deepbloom.engine.predictor import Predictor
from deepbloom.errors import CheckpointError, DeepBloomError


def prepare_trained_data(ckpt: str, trained: Predictor, changes: dict[str, Any]) -> PreparedData:
    """Return the data of a checkpoint's run, with its split.

    The folders that a checkpoint names are read from, never written to: it may be a stranger's.

    Parameters
    ----------
    ckpt : str
        As the user gave it, for messages.
    trained : Predictor
    changes : dict
        Settings of the data that differ from those of the run.

    Raises
    ------
    CheckpointError
        The data, their split or their classes are not those that the network was trained with.
    DataError
        Images are absent or unreadable.
    """
    data = prepare(trained_data_config(ckpt, trained, changes), trained.preprocessing, available_cores())
    check_same_data(ckpt, trained.header, trained.classes, data.source, data.split)
    return data


def trained_data_config(ckpt: str, trained: Predictor, changes: dict[str, Any]) -> DataConfig:
    """Return the settings of the data of a checkpoint's run, with changes; see `prepare_trained_data`."""
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        merged = dict(trained.header["data"]) | {"pixel_cache": "auto"}
        merged["split"] = dict(merged["split"]) | given.pop("split", {})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{ckpt} does not say with which data it was trained.") from error
    config = from_dict(DataConfig, merged | given, "data.")
    check_read(config, flatten(changes, "data."), "data.")
    if config.name == "flowers102" and config.root and "root" not in given and not flowers102.is_in(config.root):
        raise CheckpointError(
            f"{ckpt} was trained with Flowers102 in {config.root!r}, and it is not there. Say where it is or should "
            "go: data.root=FOLDER."
        )
    if config.fit != trained.preprocessing.fit:
        raise CheckpointError(
            f"{ckpt} was trained with data.fit={trained.preprocessing.fit}, and sees every image so. Leave out "
            f"data.fit, or train with data.fit={config.fit}."
        )
    return config


def find_trained_images(header: Mapping[str, Any]) -> ImageSource | None:
    """Return the images that a run was trained on, from where the header of its model file says they are.

    Nothing is downloaded. None where these very images are not there.
    """
    try:
        config = from_dict(DataConfig, dict(header["data"]), "data.")
        source = find_source(config)
    except (DeepBloomError, OSError, KeyError, TypeError, ValueError):
        return None
    return source if source and source.fingerprint == header.get("dataset_fingerprint") else None


def check_same_data(
    ckpt: str, header: dict[str, Any], classes: tuple[str, ...], source: ImageSource, split: Split
) -> None:
    """Raise `CheckpointError` unless a network was trained on this split of these images."""
    if source.class_names != classes:
        raise CheckpointError(
            f"{ckpt} tells {len(classes)} classes apart, and these data have {len(source.class_names)} "
            "or others. Give the data that it was trained on: data=NAME data.root=PATH."
        )
    if source.fingerprint != header.get("dataset_fingerprint"):
        raise CheckpointError(
            f"{ckpt} was trained and tested with other images than these. To classify your own images, use "
            f"deepbloom predict; to evaluate the run again, give its data: {header['data']}."
        )
    check_same_split(ckpt, header, source, split)


def check_same_split(ckpt: str, header: dict[str, Any], source: ImageSource, split: Split) -> None:
    """Raise `CheckpointError` if a network was trained on these images with another split."""
    of_these = header.get("dataset_fingerprint") == source.fingerprint
    if of_these and header.get("split_fingerprint") != split.fingerprint(source):
        data = header.get("data")
        trained_with = data.get("split") if isinstance(data, dict) else "another one"
        raise CheckpointError(
            f"{ckpt} was trained with another split of the images, so some of these test images may have trained "
            "it and the result would mean nothing. Give the same images, and leave out data.split.* and "
            f"data.allow_missing. It was trained with {trained_with}."
        )
