"""``deepbloom eval``: measure a trained network on the test part of its own split again."""

import logging
from pathlib import Path

import torch

from deepbloom import metrics
from deepbloom.config.commands import EvalConfig
from deepbloom.data.batches import evaluation_batches
from deepbloom.device import available_cores, choose_device, use_cores
from deepbloom.engine.checkpoint import find_model_file, read_model
from deepbloom.engine.evaluate import check_finite, predict_logits
from deepbloom.engine.trained_data import prepare_trained_data
from deepbloom.runs import files
from deepbloom.runs import folder as run_dir
from deepbloom.runs.results import write_predictions

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
    model = trained.network.to(device).to(memory_format=torch.channels_last)
    data = prepare_trained_data(config.ckpt, trained, config.data)
    path = find_model_file(config.ckpt).resolve()
    folder = files.output_folder(Path(config.output_dir or f"outputs/eval-{path.parent.name}"))
    batches = evaluation_batches(
        data.pixels, data.split.test, data.source.targets, trained.preprocessing, config.batch_size, device
    )
    logits, targets = predict_logits(model, batches, device)
    check_finite(logits, path)
    scores = metrics.score_logits(logits, targets)
    image_ids = [data.source.image_ids[i] for i in data.split.test]
    write_predictions(folder, image_ids, trained.classes, logits, targets)
    files.write_json(
        folder / run_dir.METRICS,
        {
            "model": trained.label,
            "checkpoint": str(path),
            "test": scores,
            "dataset_fingerprint": data.source.fingerprint,
            "split_fingerprint": data.split_fingerprint,
        },
    )
    for name, value in scores.items():
        print(f"{name:<14}  {value:.4f}" if isinstance(value, float) else f"{name:<14}  {value}")
    log.info("wrote %s", folder / run_dir.METRICS)
