"""``deepbloom train``: from settings to a run directory."""

import logging
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.contrib.logging import logging_redirect_tqdm

from deepbloom import metrics, run_dir
from deepbloom.analysis.figures import plot_confusion, plot_history
from deepbloom.commands import outputs
from deepbloom.config import LoggerConfig, RunConfig
from deepbloom.cost import count_macs, measure_latency_ms
from deepbloom.data.audit import WatchedPixels, audit_split
from deepbloom.data.cache_folder import cache_folder
from deepbloom.data.loaders import PictureBatches, evaluation_batches
from deepbloom.data.prepared import PreparedData, prepare
from deepbloom.data.split import split_kind
from deepbloom.device import available_cores, choose_device, device_name, peak_memory_bytes, use_cores
from deepbloom.engine import prefix_cache
from deepbloom.engine.checkpoint import model_header
from deepbloom.engine.distributed import Group, join
from deepbloom.engine.evaluate import predict_logits
from deepbloom.engine.freeze_audit import audit_freeze, combine, hash_frozen
from deepbloom.engine.job import Batches, Job
from deepbloom.engine.precision import choose_training_precision
from deepbloom.engine.state import Progress, read_progress
from deepbloom.engine.train import train as run_loop
from deepbloom.errors import ConfigError, DeepBloomError, Interrupted, RunError
from deepbloom.models.freezing import count_parameters, split_model, train_mode
from deepbloom.models.registry import ModelSpec, create_model, get_spec
from deepbloom.provenance import code_version, collect_versions, git_commit
from deepbloom.reproducibility import seed_everything
from deepbloom.signals import StopRequest
from deepbloom.tracking import Tracking, check_logger

log = logging.getLogger("deepbloom")

MIN_STEPS_TO_MEASURE = 100
"""Shorter runs take fp32: measuring would cost more than it gains."""
EVALUATION_BATCH = 64


def run(config: RunConfig) -> None:
    """Train and print where the results are."""
    print(train(config))


def train(config: RunConfig) -> Path:
    """Train one network, choose its best epoch on the validation part, and test it once.

    A run that was stopped goes on where it was; one that is complete is left as it is.

    Parameters
    ----------
    config : RunConfig

    Returns
    -------
    Path
        The run directory: see the README for its files.

    Raises
    ------
    DeepBloomError
        Settings, data, weights or the folder do not allow the run, or it diverged or was stopped.
    """
    get_spec(config.model.name)
    check_logger(config.logger)
    device = choose_device(config.train.device)
    with join(device) as group, StopRequest() as stop:
        folder, state = group.agree(partial(run_dir.open_run, config))
        tracking = Tracking(config.logger if group.leader else LoggerConfig(), folder)
        if state == "complete":
            log.info("%s is complete already. For another run, change a setting or add train.resume=never.", folder)
            tracking.close("complete")
        elif group.leader:
            with run_dir.exclusive(folder):
                if run_dir.check_folder(folder, config) != "complete":  # by another process, until this one held it
                    with _log_file(folder), _recorded(config, folder, state, tracking):
                        _train(config, folder, device, group, stop, tracking)
        else:
            log.setLevel(logging.ERROR)
            _train(config, folder, device, group, stop, tracking)
    return folder


@contextmanager
def _recorded(config: RunConfig, folder: Path, state: str, tracking: Tracking) -> Iterator[None]:
    """Leave in the run's folder what is run there, and why it failed; nothing where it was refused at once."""
    run_dir.remove_leftovers(folder)
    (folder / run_dir.FAILED).unlink(missing_ok=True)
    run_dir.write_config(folder, config)
    try:
        with _disk_faults(folder), logging_redirect_tqdm():
            yield
    except Interrupted as error:
        log.debug("%s", error)
        tracking.close("partial")
        raise
    except Exception as error:
        _record_failure(folder, error)
        tracking.close("failed")
        if state == "empty" and not run_dir.holds_state(folder) and getattr(error, "exit_code", 1) == 2:
            run_dir.discard(folder)
        raise
    tracking.close("complete")


def _train(
    config: RunConfig, folder: Path, device: torch.device, group: Group, stop: StopRequest, tracking: Tracking
) -> None:
    cores = max(1, available_cores() // group.local_size)
    use_cores(config.train.num_threads or cores)
    workers = cores if config.train.num_workers < 0 else config.train.num_workers
    spec = get_spec(config.model.name)
    data = prepare(config.data, spec.preprocessing, workers)
    if config.train.batch_size > len(data.split.train):
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} is larger than the training part of "
            f"{len(data.split.train)} pictures. Choose a smaller one."
        )
    if config.train.batch_size < 2 * group.size:  # batches of an epoch differ in size by one
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} is too small for {group.size} processes: give each two "
            "pictures of a step at least."
        )
    seed_everything(config.seed, "weights")
    model = create_model(config.model.name, len(data.source.class_names), config.model.weights)
    model = model.to(device).to(memory_format=torch.channels_last)
    parameters = count_parameters(model)
    log.info(
        "%s on %s: %d classes, %d train, %d validation, %d test pictures; %.2f M parameters, %.2f M trained; %s",
        config.model.name,
        config.data.name,
        len(data.source.class_names),
        len(data.split.train),
        len(data.split.val),
        len(data.split.test),
        parameters["total"] / 1e6,
        parameters["trainable"] / 1e6,
        device_name(device),
    )
    header = model_header(
        config.model.name,
        data.source.class_names,
        spec.preprocessing,
        data=asdict(config.data),
        dataset_fingerprint=data.source.fingerprint,
        split_fingerprint=data.split_fingerprint,
        seed=config.seed,
        num_threads=torch.get_num_threads(),
        versions=collect_versions(),
    )
    frozen = hash_frozen(model, spec.trainable)
    run_dir.check_provenance(
        folder,
        {
            "dataset_fingerprint": data.source.fingerprint,
            "split_fingerprint": data.split_fingerprint,
            "frozen_weights": combine(frozen),
        },
    )
    on_early = partial(run_dir.note, folder, "test_read_before_testing", True)
    watched = WatchedPixels(data.pixels, len(data.source), data.split.test, on_early)
    saved = read_progress(folder, config, device)
    progress = saved[0] if saved else Progress()
    if saved:
        log.info("going on in epoch %d after step %d", progress.epoch, progress.step)
    watched_data = replace(data, pixels=watched)
    job = _prepare_job(config, model, watched_data, folder, device, group, stop, header, progress)
    job = replace(job, on_epoch=tracking.update)
    state = run_loop(job, progress, saved[1:] if saved else None)
    if not group.leader:
        return
    model.load_state_dict(model.state_dict() | state.best)
    audit = {"freeze": audit_freeze(frozen, model, state.optimizer, spec.trainable)}
    _test(config, model, data, watched, folder, progress, parameters, audit, device)


def _prepare_job(
    config: RunConfig,
    model: nn.Module,
    data: PreparedData,
    folder: Path,
    device: torch.device,
    group: Group,
    stop: StopRequest,
    header: dict[str, Any],
    progress: Progress,
) -> Job:
    """Compute the frozen part where that pays, choose the precision, and put the job together.

    What was chosen when the run began is kept when it goes on.
    """
    spec, split, choices = get_spec(config.model.name), data.split, progress.choices
    pictures = PictureBatches(
        data.pixels,
        split.train,
        data.source.targets,
        spec.preprocessing,
        config.augment,
        config.seed,
        config.train.batch_size,
        device,
        share=group.share,
    )
    folder_of_activations = cache_folder() / "frozen_part"
    prefix, _ = split_model(model, spec)
    train_mode(model, spec.trainable)
    if "views" not in choices:
        head_only = spec.training_type == "frozen"
        plan = group.agree(
            lambda: prefix_cache.plan(prefix, pictures, len(split.val), config, folder_of_activations, head_only)
        )
        choices |= {"views": plan.views, "prefix_precision": plan.precision}
    plan = prefix_cache.Plan(choices["views"], choices["prefix_precision"])
    batches: Batches = pictures
    validation = partial(
        evaluation_batches, data.pixels, split.val, data.source.targets, spec.preprocessing, EVALUATION_BATCH
    )
    as_network = _whole
    if plan.views:
        pictures.views = plan.views
        started = time.perf_counter()
        batches, val = prefix_cache.compute(prefix, pictures, split.val, plan, folder_of_activations, group)
        progress.prefix_seconds += time.perf_counter() - started
        val_targets = torch.from_numpy(data.source.targets[split.val])
        validation = partial(prefix_cache.validation_batches, val, val_targets, EVALUATION_BATCH)
        as_network = partial(_tail, spec)
    if "precision" not in choices:
        choices["precision"] = group.agree(lambda: _choose_precision(config, as_network(model), batches))
    return Job(model, spec, config, batches, validation, as_network, header, folder, device, group, stop)


def _whole(model: nn.Module) -> nn.Module:
    return model


def _tail(spec: ModelSpec, model: nn.Module) -> nn.Module:
    return split_model(model, spec)[1]


def _choose_precision(config: RunConfig, network: nn.Module, batches: Batches) -> str:
    if config.train.precision != "auto":
        return config.train.precision
    if batches.steps_per_epoch * config.train.epochs < MIN_STEPS_TO_MEASURE:
        return "fp32"
    inputs, targets = next(batches.epoch(1))
    chosen, seconds = choose_training_precision(network, inputs, targets, inputs.device)
    if seconds:
        measured = ", ".join(f"{name} {len(targets) / value:.0f}" for name, value in seconds.items())
        log.info("precision %s (images/s in a training step: %s)", chosen, measured)
    return chosen


def _test(
    config: RunConfig,
    model: nn.Module,
    data: PreparedData,
    watched: WatchedPixels,
    folder: Path,
    progress: Progress,
    parameters: dict[str, int],
    audit: dict[str, Any],
    device: torch.device,
) -> None:
    """Test the chosen weights once, and write what a complete run holds; ``metrics.json`` last."""
    spec, split, source = get_spec(config.model.name), data.split, data.source
    times_tested = run_dir.count(folder, "times_tested")
    watched.testing = True
    batches = evaluation_batches(watched, split.test, source.targets, spec.preprocessing, EVALUATION_BATCH)
    logits, targets = predict_logits(model, batches, device)
    scores = metrics.score_logits(logits, targets)
    outputs.write_predictions(folder, [source.image_ids[i] for i in split.test], logits, targets)
    plots = run_dir.make_folder(folder / run_dir.PLOTS)
    plot_history(progress.history, plots / "curves.png")
    confusion = metrics.confusion_matrix(logits.argmax(1), targets, len(source.class_names))
    plot_confusion(confusion, source.class_names, plots / "confusion.png")
    outputs.write_class_report(folder, confusion, source.class_names)
    audit["split"], twins = audit_split(data)
    audit["split"] |= {"test_without": outputs.score_without(twins, logits, targets)}
    audit["test"] = {
        "times_tested": times_tested,
        "reads_per_picture": list(watched.test_reads),
        "read_before_testing": bool(run_dir.read_provenance(folder).get("test_read_before_testing", False)),
    }
    steps_seconds = sum(row["seconds"] for row in progress.history)
    run_dir.write_json(
        folder / run_dir.METRICS,
        {
            "model": config.model.name,
            "training_type": spec.training_type,
            "remarks": spec.remarks,
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
            "prefix_cache_views": progress.choices["views"],
            "num_threads": torch.get_num_threads(),
            "classes": list(source.class_names),
            "test": scores,
            "val": {"top1_accuracy": progress.best_val_accuracy, "loss": progress.best_val_loss},
            "params": parameters,
            "macs": count_macs(model, spec.preprocessing.size),
            "train_seconds": progress.prefix_seconds + steps_seconds,
            "images_per_second": config.train.epochs * len(split.train) / (progress.prefix_seconds + steps_seconds),
            "latency_ms": measure_latency_ms(model, spec.preprocessing.size),
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
        "test accuracy %.4f (%d pictures), validation %.4f, best epoch %d, %.0f s of training",
        scores["top1_accuracy"],
        scores["count"],
        progress.best_val_accuracy,
        progress.best_epoch,
        progress.prefix_seconds + steps_seconds,
    )


def _record_failure(folder: Path, error: Exception) -> None:
    """Leave the reason in the run's folder, and a bug's traceback in its log; the folder itself may be what failed."""
    reason = f"{type(error).__name__}: {error}\n"
    with suppress(OSError):
        (folder / run_dir.FAILED).write_text(reason)
        with open(folder / run_dir.LOG, "a", encoding="utf-8") as file:
            file.write(reason if isinstance(error, DeepBloomError) else "".join(traceback.format_exception(error)))


@contextmanager
def _disk_faults(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into an error that says what is kept."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{error}. What was saved in {folder} before is unchanged. Free space or repair the disk, then start the "
            "same command again: it goes on from there."
        ) from error


class _LogFile(logging.FileHandler):
    """A log that cannot be written stops nothing."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def _log_file(folder: Path) -> Iterator[None]:
    """Also write the log lines of this run to its own file."""
    handler = _LogFile(folder / run_dir.LOG, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with suppress(OSError):
            handler.close()
