"""``deepbloom eval``: measure a trained network on the test part of its own split again."""

import logging
from pathlib import Path

from deepbloom import metrics
from deepbloom.calibration.temperature import assess
from deepbloom.config.command_settings import EvalConfig
from deepbloom.engine.evaluate import check_finite
from deepbloom.engine.trained_data import prepare_trained_data
from deepbloom.export.opening import find_file, open_ensemble
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
    ensemble = open_ensemble(config.ckpt, config.device, config.tta == "mirror", threads_of_run=True)
    ensemble.check_same_split()
    paths = [find_file(name).resolve() for name in ensemble.names]
    each = []
    for name, member in zip(ensemble.names, ensemble.members, strict=True):
        data = prepare_trained_data(name, member, config.data)
        each.append(member.all_logits(data.pixels, data.split.test, config.batch_size))
        check_finite(each[-1], name)
    several = "ensemble" if len(paths) > 1 else run_dir.name_output(paths[0])
    folder = files.output_folder(Path(config.output_dir or f"outputs/eval-{several}"))
    logits, targets = ensemble.average(each), data.source.targets[data.split.test]
    scores = metrics.score_logits(logits, targets)
    calibration = assess(logits, targets, ensemble.temperature)
    image_ids = [data.source.image_ids[i] for i in data.split.test]
    write_predictions(folder, image_ids, ensemble.classes, logits, targets, ensemble.temperature)
    files.write_json(
        folder / run_dir.METRICS,
        {
            "model": ensemble.label,
            "checkpoint": str(paths[0]) if len(paths) == 1 else [str(path) for path in paths],
            "tta": config.tta,
            "test": scores | {"calibration": calibration},
            "dataset_fingerprint": data.source.fingerprint,
            "split_fingerprint": data.split_fingerprint,
        },
    )
    for name, value in scores.items():
        print(f"{name:<14}  {value:.4f}" if isinstance(value, float) else f"{name:<14}  {value}")
    log.info("wrote %s", folder / run_dir.METRICS)
