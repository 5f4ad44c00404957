"""``deepbloom eval``: measure a trained network on the test part of its own split again."""

import logging
from pathlib import Path

from deepbloom import metrics
from deepbloom.calibration.temperature import assess
from deepbloom.config.commands import EvalConfig
from deepbloom.engine.evaluate import check_finite
from deepbloom.engine.trained_data import prepare_trained_data
from deepbloom.export.opening import find_file, open_predictor
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
    predictor = open_predictor(config.ckpt, config.device, threads_of_run=True)
    data = prepare_trained_data(config.ckpt, predictor, config.data)
    path = find_file(config.ckpt).resolve()
    folder = files.output_folder(Path(config.output_dir or f"outputs/eval-{path.parent.name}"))
    logits = predictor.all_logits(data.pixels, data.split.test, config.batch_size)
    targets = data.source.targets[data.split.test]
    check_finite(logits, path)
    scores = metrics.score_logits(logits, targets)
    calibration = assess(logits, targets, predictor.temperature)
    image_ids = [data.source.image_ids[i] for i in data.split.test]
    write_predictions(folder, image_ids, predictor.classes, logits, targets, predictor.temperature)
    files.write_json(
        folder / run_dir.METRICS,
        {
            "model": predictor.label,
            "checkpoint": str(path),
            "test": scores | {"calibration": calibration},
            "dataset_fingerprint": data.source.fingerprint,
            "split_fingerprint": data.split_fingerprint,
        },
    )
    for name, value in scores.items():
        print(f"{name:<14}  {value:.4f}" if isinstance(value, float) else f"{name:<14}  {value}")
    log.info("wrote %s", folder / run_dir.METRICS)
