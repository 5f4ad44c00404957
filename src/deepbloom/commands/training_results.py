"""The end of a training run: its test, and the files of a complete run."""

import logging
from typing import Any

import torch

from deepbloom import metrics
from deepbloom.commands import outputs
from deepbloom.cost import count_macs, measure_latency_ms
from deepbloom.data.batches import evaluation_batches
from deepbloom.data.dataset import PreparedData
from deepbloom.data.leakage import WatchedPixels, audit_split
from deepbloom.data.resolution import train_resolutions
from deepbloom.data.split import split_kind
from deepbloom.device import device_name, peak_memory_bytes
from deepbloom.engine.evaluate import EVALUATION_BATCH, predict_logits
from deepbloom.engine.job import Job
from deepbloom.engine.state import Progress
from deepbloom.models.freezing import count_parameters
from deepbloom.models.registry import training_type
from deepbloom.report.confusion import plot_confusion
from deepbloom.report.plots import plot_history
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir
from deepbloom.runs.provenance import code_version, collect_versions, git_commit

log = logging.getLogger("deepbloom")


def test_and_write(
    job: Job, data: PreparedData, watched: WatchedPixels, progress: Progress, audit: dict[str, Any]
) -> None:
    """Test the chosen weights once, and write what a complete run holds; ``metrics.json`` last."""
    config, model, folder, device = job.config, job.model, job.folder, job.device
    preprocessing = job.architecture.preprocessing
    split, source = data.split, data.source
    times_tested = run_dir.count(folder, "times_tested")
    watched.testing = True
    batches = evaluation_batches(watched, split.test, source.targets, preprocessing, EVALUATION_BATCH)
    logits, targets = predict_logits(model, batches, device)
    scores = metrics.score_logits(logits, targets)
    outputs.write_predictions(folder, [source.image_ids[i] for i in split.test], logits, targets)
    plots = atomic_files.make_folder(folder / run_dir.PLOTS)
    plot_history(progress.history, plots / "curves.png")
    confusion = metrics.confusion_matrix(logits.argmax(1), targets, len(source.class_names))
    plot_confusion(confusion, source.class_names, plots / "confusion.png")
    outputs.write_class_report(folder, confusion, source.class_names)
    audit["split"], twins = audit_split(data)
    audit["split"] |= {"test_without": outputs.score_without(twins, logits, targets)}
    audit["test"] = {
        "times_tested": times_tested,
        "reads_per_image": list(watched.test_reads),
        "read_before_testing": bool(run_dir.read_provenance(folder).get("test_read_before_testing", False)),
    }
    steps_seconds = sum(row["seconds"] for row in progress.history)
    atomic_files.write_json(
        folder / run_dir.METRICS,
        {
            "model": config.model.label,
            "arch": config.model.arch,
            "trainable": list(job.trainable),
            "training_type": training_type(config.model.arch, job.trainable, config.model.weights),
            "description": job.architecture.description,
            "weights": config.model.weights,
            "dataset": config.data.name,
            "data_split_kind": split_kind(source, config.data.split),
            "folds": config.data.split.folds,
            "fold": config.data.split.fold,
            "seed": config.seed,
            "epochs": config.train.epochs,
            "best_epoch": progress.best_epoch,
            "device": device.type,
            "device_name": device_name(device),
            "precision": progress.choices["precision"],
            "feature_copies": progress.choices["views"],
            "train_resolutions": list(train_resolutions(config.augment, preprocessing.size, config.train.epochs)),
            "num_threads": torch.get_num_threads(),
            "classes": list(source.class_names),
            "test": scores,
            "val": {"top1_accuracy": progress.best_val_accuracy, "loss": progress.best_val_loss},
            "params": count_parameters(model),
            "macs": count_macs(model, preprocessing.size),
            "train_seconds": progress.prefix_seconds + steps_seconds,
            "images_per_second": config.train.epochs * len(split.train) / (progress.prefix_seconds + steps_seconds),
            "latency_ms": measure_latency_ms(model, preprocessing.size),
            "size_bytes": (folder / run_dir.MODEL).stat().st_size,
            "peak_memory_bytes": peak_memory_bytes(),
            "dataset_fingerprint": source.fingerprint,
            "split_fingerprint": data.split_fingerprint,
            "versions": collect_versions(),
            "git_commit": git_commit(),
            "code_version": code_version(),
            "audit": audit,
        },
    )
    (folder / run_dir.PREVIOUS).unlink(missing_ok=True)
    log.info(
        "test accuracy %.4f (%d images), validation %.4f, best epoch %d, %.0f s of training",
        scores["top1_accuracy"],
        scores["count"],
        progress.best_val_accuracy,
        progress.best_epoch,
        progress.prefix_seconds + steps_seconds,
    )
