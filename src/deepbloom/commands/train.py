"""``deepbloom train``: from settings to a run directory."""

import logging
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from deepbloom import metrics
from deepbloom.calibration import rejection as rejections
from deepbloom.calibration import temperature as temperatures
from deepbloom.config.settings import LoggerConfig, RunConfig
from deepbloom.cost import count_macs, measure_latency_ms
from deepbloom.data.leakage import audit_split, describe_findings
from deepbloom.data.split import split_kind
from deepbloom.device import choose_device, device_name, left_as_found, peak_memory_bytes, reset_peak_memory
from deepbloom.engine.best_epoch import choose_epoch
from deepbloom.engine.distributed import join
from deepbloom.engine.outcome import Outcome
from deepbloom.engine.plan import Plan
from deepbloom.engine.resolve import check_batch_size, resolve
from deepbloom.engine.train import train as train_plan
from deepbloom.errors import ConfigError, require_package
from deepbloom.models.freezing import count_parameters
from deepbloom.models.registry import get_architecture, training_type
from deepbloom.report.run_plots import plot_calibration, plot_confusion, plot_history
from deepbloom.runs import files
from deepbloom.runs import folder as run_dir
from deepbloom.runs.provenance import collect_versions, git_commit
from deepbloom.runs.recording import log_level, recorded
from deepbloom.runs.results import score_without, write_class_report, write_predictions, write_probabilities
from deepbloom.runs.stopwatch import Stopwatch
from deepbloom.signals import StopRequest

log = logging.getLogger("deepbloom")


def run(config: RunConfig) -> None:
    """Train, print where the results are, and log what to do with them."""
    folder = train(config)
    print(folder)
    log.info(
        "Next: deepbloom predict ckpt=%s image=PATH, deepbloom gradcam ckpt=%s image=PATH, deepbloom report runs=%s",
        *(shlex.quote(str(path)) for path in (folder, folder, folder.parent)),
    )


def train(config: RunConfig) -> Path:
    """Train one network, choose its best epoch on the validation images, and test it once.

    An interrupted run resumes; a complete one is left as it is.

    Parameters
    ----------
    config : RunConfig
        See `deepbloom.recipe`.

    Returns
    -------
    Path
        The run directory: see the README for its files.

    Raises
    ------
    DeepBloomError
        Settings, data, weights or the folder do not allow the run, or it diverged or was stopped.
    """
    watch = Stopwatch()
    if config.logger.name != "none":
        require_package(config.logger.name, f"logger={config.logger.name}")
    device = choose_device(config.train.device)
    with left_as_found(device), StopRequest() as stop, join(device) as group, ExitStack() as held:
        reset_peak_memory(device)
        plan = group.together(partial(_resolve, config, group.size))
        folder, state = group.broadcast(partial(_open_folder, plan, held))
        if group.is_main:
            log.info("run directory: %s", folder)
        on_epoch, on_end = _trackers(config.logger if group.is_main else LoggerConfig("none"), folder)
        if state == "complete":
            if group.is_main:
                plan.log_data()
            log.info("%s is complete. Change a setting or add train.resume=never for another run.", folder)
            on_end("complete")
        elif group.is_main:
            with recorded(folder, on_end), watch.kept(folder):
                run_dir.write_settings(folder, plan.config, plan.identity)
                outcome = train_plan(plan, folder, group, stop, on_epoch)
                assert outcome is not None  # this is rank 0
                _write_results(plan, folder, outcome, watch)
        else:
            with log_level(logging.ERROR):
                train_plan(plan, folder, group, stop, on_epoch)
    return folder


def _resolve(config: RunConfig, processes: int) -> Plan:
    """Return the plan of a run that this many processes can train."""
    if processes > 1 and config.train.minutes:
        raise ConfigError("train.minutes measures the speed of one process. With torchrun give train.epochs.")
    plan = replace(resolve(config), processes=processes)
    check_batch_size(plan)
    return plan


def _open_folder(plan: Plan, held: ExitStack) -> tuple[Path, str]:
    """Return the run directory and its state; unless it is complete, hold it for this process."""
    folder = run_dir.claim_folder(plan.config, plan.run_id)
    state = run_dir.check_folder(folder, plan.config, plan.identity)
    files.make_folder(folder)
    if state != "complete":
        held.enter_context(run_dir.exclusive(folder))
        state = run_dir.check_folder(folder, plan.config, plan.identity)  # another process may have completed it
    return folder, state


def _trackers(config: LoggerConfig, folder: Path) -> tuple[Callable[[], None], Callable[[str], None]]:
    """Return what tells a tracker of an epoch, and of the end of the run."""
    if config.name == "none":
        return lambda: None, lambda state: None
    from deepbloom.runs.tracking import Tracking

    tracking = Tracking(config, folder)
    return tracking.update, tracking.close


def _write_results(plan: Plan, folder: Path, outcome: Outcome, watch: Stopwatch) -> None:
    """Write what a complete run holds; ``metrics.json`` last."""
    source, progress = plan.source, outcome.state.progress
    logits, targets, temperature = outcome.tested.logits, outcome.tested.targets, outcome.temperature
    image_ids = [source.image_ids[i] for i in plan.split.test]
    confusion = metrics.confusion_matrix(logits.argmax(1), targets, len(source.class_names))
    write_predictions(folder, image_ids, source.class_names, logits, targets, temperature)
    write_probabilities(folder, logits, outcome.tested.embeddings, temperature)
    write_class_report(folder, confusion, source.class_names)
    plots = files.make_folder(folder / run_dir.PLOTS)
    plot_history(progress.history, plots / "curves.png", progress.best_epoch)
    plot_confusion(confusion, source.class_names, plots / "confusion.png")
    found, near_duplicates = audit_split(outcome.data)
    log.info("%s", describe_findings(found, plan.split))
    split = found | {"test_without": score_without(near_duplicates, logits, targets)}
    audit = {"freeze": outcome.freeze, "split": split, "test": outcome.test}
    scores = metrics.score_logits(logits, targets) | {"calibration": temperatures.assess(logits, targets, temperature)}
    confidences, correct = metrics.softmax(logits, temperature).max(1), logits.argmax(1) == targets
    rejection = rejections.assess(confidences, correct, outcome.distances, outcome.rejection)
    plot_calibration(logits, targets, temperature, plots / "calibration.png")
    measured = _measurements(plan, outcome, folder) | {"total_seconds": watch.seconds}
    files.write_json(
        folder / run_dir.METRICS,
        {**_settings(plan), **measured, "test": scores, "rejection": rejection, "audit": audit},
    )
    (folder / run_dir.PREVIOUS).unlink(missing_ok=True)
    log.info(
        "test accuracy %.4f (%d images), validation %.4f, best epoch %d, %.0f s of training",
        scores["top1_accuracy"],
        scores["count"],
        progress.best_val_accuracy,
        progress.best_epoch,
        progress.train_seconds,
    )


def _settings(plan: Plan) -> dict[str, object]:
    """Return the part of metrics.json that was known before training."""
    config = plan.config
    return {
        "model": config.model.label,
        "name": config.name,
        "run_id": plan.run_id,
        "identity": plan.identity.as_dict(),
        "training_type": training_type(config.model.arch, plan.trainable, config.model.weights),
        "description": get_architecture(config.model.arch).description,
        "weights": config.model.weights,
        "dataset": config.data.name,
        "data_name": config.data.title,
        "data_split_kind": split_kind(plan.source, config.data.split),
        "folds": config.data.split.folds,
        "fold": config.data.split.fold,
        "seed": config.seed,
        "epochs": config.train.epochs,
        "device": plan.device.type,
        "device_name": device_name(plan.device),
        "precision": plan.precision,
        "feature_copies": plan.schedule.copies,
        "train_resolutions": list(plan.schedule.resolutions),
        "num_threads": torch.get_num_threads(),
        "classes": list(plan.source.class_names),
        "dataset_fingerprint": plan.source.fingerprint,
        "split_fingerprint": plan.split.fingerprint(plan.source),
        "versions": collect_versions(),
        "git_commit": git_commit(),
    }


def _measurements(plan: Plan, outcome: Outcome, folder: Path) -> dict[str, object]:
    """Return the part of metrics.json that the run measured, without the test."""
    progress, model = outcome.state.progress, outcome.state.model
    size = plan.preprocessing.size
    choice = choose_epoch(progress.history, len(plan.split.val))
    log.info("%s", choice)
    return {
        "best_epoch": progress.best_epoch,
        "epoch_choice": {
            "highest_val_accuracy": choice.highest["val_accuracy"],
            "standard_error": choice.standard_error,
            "epochs_within": choice.within,
        },
        "val": {"top1_accuracy": progress.best_val_accuracy, "loss": progress.best_val_loss},
        "probe": progress.probe or None,
        "params": count_parameters(model),
        "macs": count_macs(model, size),
        "train_seconds": progress.train_seconds,
        "images_per_second": plan.config.train.epochs * len(plan.split.train) / progress.train_seconds,
        "latency_ms": measure_latency_ms(model, size),
        "size_bytes": (folder / run_dir.MODEL).stat().st_size,
        "peak_memory_bytes": peak_memory_bytes(plan.device),
        "peak_memory_of": "device" if plan.device.type == "cuda" else "host",
        "host_peak_memory_bytes": peak_memory_bytes(torch.device("cpu")),
    }
