"""``deepbloom eval``: measure a trained network on the test part of its own split again."""

import logging
from pathlib import Path

import torch

from deepbloom import metrics, run_dir
from deepbloom.commands import outputs
from deepbloom.config import DataConfig, EvalConfig, from_dict
from deepbloom.data.loaders import evaluation_batches
from deepbloom.data.prepared import PreparedData, prepare
from deepbloom.device import available_cores, choose_device, use_cores
from deepbloom.engine.checkpoint import find_model_file, read_model
from deepbloom.engine.evaluate import predict_logits
from deepbloom.errors import CheckpointError

log = logging.getLogger("deepbloom")


def run(config: EvalConfig) -> None:
    """Write metrics.json and predictions.csv and print the scores.

    Raises
    ------
    CheckpointError
        The data, their split or their classes are not those that the network was trained with.
    """
    device = choose_device(config.device)
    trained = read_model(config.ckpt)
    # The last bits of the scores depend on the number of threads: take that of the run where it is there.
    threads = trained.header.get("num_threads")
    use_cores(min(threads, available_cores()) if type(threads) is int and threads > 0 else available_cores())
    header, model = trained.header, trained.network.to(device).to(memory_format=torch.channels_last)
    data = prepare(_data_config(header, config), trained.preprocessing, available_cores())
    _check_same_data(config.ckpt, header, trained.classes, data)
    path = find_model_file(config.ckpt).resolve()
    folder = run_dir.make_folder(Path(config.output_dir or f"outputs/eval-{path.parent.name}"))
    batches = evaluation_batches(
        data.pixels, data.split.test, data.source.targets, trained.preprocessing, config.batch_size
    )
    logits, targets = predict_logits(model, batches, device)
    scores = metrics.score_logits(logits, targets)
    outputs.write_predictions(folder, [data.source.image_ids[i] for i in data.split.test], logits, targets)
    run_dir.write_json(
        folder / run_dir.METRICS,
        {
            "model": header["model"],
            "checkpoint": str(path),
            "test": scores,
            "dataset_fingerprint": data.source.fingerprint,
            "split_fingerprint": data.split_fingerprint,
        },
    )
    for name, value in scores.items():
        print(f"{name:<14}  {value:.4f}" if isinstance(value, float) else f"{name:<14}  {value}")
    log.info("wrote %s", folder / run_dir.METRICS)


def _data_config(header: dict, config: EvalConfig) -> DataConfig:
    """Return the settings of the run's data, with those given now in their place."""
    given = {key: value for key, value in config.data.items() if value is not None}
    try:
        merged = dict(header["data"])
        merged["split"] = dict(merged["split"]) | given.pop("split", {})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{config.ckpt} does not say with which data it was trained.") from error
    return from_dict(DataConfig, merged | given)


def _check_same_data(ckpt: str, header: dict, classes: tuple[str, ...], data: PreparedData) -> None:
    if data.source.class_names != classes:
        raise CheckpointError(
            f"{ckpt} tells {len(classes)} classes apart, and these data have {len(data.source.class_names)} "
            "or others. Give the data that it was trained on: data=NAME data.root=PATH."
        )
    if data.source.fingerprint != header.get("dataset_fingerprint"):
        raise CheckpointError(
            f"{ckpt} was trained and tested with other pictures than these. To name pictures of your own use deepbloom "
            f"predict; to measure again, give the data of the run: {header['data']}."
        )
    if data.split_fingerprint != header.get("split_fingerprint"):
        raise CheckpointError(
            f"{ckpt} was trained with another split of the pictures, so some of these test pictures may have trained "
            "it and the result would mean nothing. Give the same pictures, and leave out data.split.* and "
            f"data.allow_missing. It was trained with {header['data']['split']}."
        )
