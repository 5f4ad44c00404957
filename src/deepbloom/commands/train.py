"""``deepbloom train``: from settings to a run directory."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from deepbloom.commands.training_results import test_and_write
from deepbloom.config.settings import LoggerConfig, RunConfig
from deepbloom.data.augment import chosen_ops
from deepbloom.data.dataset import prepare
from deepbloom.data.leakage import WatchedPixels
from deepbloom.data.sources import load_source
from deepbloom.device import available_cores, choose_device, device_name, use_cores
from deepbloom.engine.checkpoint import model_header
from deepbloom.engine.distributed import Group, join
from deepbloom.engine.freeze_check import audit_freeze, combine, hash_frozen
from deepbloom.engine.setup import prepare_job
from deepbloom.engine.state import Progress, read_progress
from deepbloom.engine.train import train as run_loop
from deepbloom.errors import ConfigError, DeepBloomError, Interrupted, RunError
from deepbloom.models.freezing import count_parameters
from deepbloom.models.registry import create_model, get_architecture, resolved_trainable
from deepbloom.rng import seed_everything
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir
from deepbloom.runs.provenance import collect_versions
from deepbloom.runs.tracking import Tracking, check_logger
from deepbloom.signals import StopRequest

log = logging.getLogger("deepbloom")


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
    resolved_trainable(config.model.arch, tuple(config.model.trainable))
    chosen_ops(config.augment)  # an error in them shows before the images are read
    check_logger(config.logger)
    device = choose_device(config.train.device)
    with join(device) as group, StopRequest() as stop:
        folder, state = group.agree(partial(run_dir.open_run, config))
        tracking = Tracking(config.logger if group.leader else LoggerConfig("none"), folder)
        if state == "complete":
            group.agree(lambda: check_images(folder, load_source(config.data).fingerprint))
            log.info("%s is complete already. For another run, change a setting or add train.resume=never.", folder)
            tracking.close("complete")
        elif group.leader:
            with run_dir.exclusive(folder):
                if run_dir.check_folder(folder, config) != "complete":  # by another process, until this one held it
                    with _log_file(folder), _recorded(config, folder, state, tracking):
                        _train(config, folder, device, group, stop, tracking)
        else:
            with _log_level(logging.ERROR):
                _train(config, folder, device, group, stop, tracking)
    return folder


def check_images(folder: Path, dataset_fingerprint: str) -> None:
    """Make sure that a complete run learned from the images that are there now.

    Raises
    ------
    RunError
        They are others.
    """
    if run_dir.read_provenance(folder).get("dataset_fingerprint") not in (None, dataset_fingerprint):
        raise RunError(
            f"{folder} holds a complete run on other images: they have changed since. Delete that folder to train "
            "on those of now, or choose another output_dir=PATH."
        )


@contextmanager
def _recorded(config: RunConfig, folder: Path, state: str, tracking: Tracking) -> Iterator[None]:
    """Leave in the run's folder what is run there, and why it failed; nothing where it was refused at once."""
    atomic_files.remove_leftovers(folder)
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
    preprocessing = get_architecture(config.model.arch).preprocessing
    trainable = resolved_trainable(config.model.arch, tuple(config.model.trainable))
    data = prepare(config.data, preprocessing, workers)
    if config.train.batch_size > len(data.split.train):
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} is larger than the training part of "
            f"{len(data.split.train)} images. Choose a smaller one."
        )
    if config.train.batch_size < 2 * group.size:  # batches of an epoch differ in size by one
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} is too small for {group.size} processes: give each two "
            "images of a step at least."
        )
    seed_everything(config.seed, "weights")
    model = create_model(config.model.arch, len(data.source.class_names), trainable, config.model.weights)
    model = model.to(device).to(memory_format=torch.channels_last)
    parameters = count_parameters(model)
    log.info(
        "%s on %s: %d classes, %d train, %d validation, %d test images; %.2f M parameters, %.2f M trained; %s",
        config.model.label,
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
        config.model.arch,
        data.source.class_names,
        preprocessing,
        model=config.model.label,
        trainable=list(trainable),
        data=asdict(config.data),
        dataset_fingerprint=data.source.fingerprint,
        split_fingerprint=data.split_fingerprint,
        seed=config.seed,
        num_threads=torch.get_num_threads(),
        versions=collect_versions(),
    )
    frozen = hash_frozen(model, trainable)
    facts = {
        "dataset_fingerprint": data.source.fingerprint,
        "split_fingerprint": data.split_fingerprint,
        "frozen_weights": combine(frozen),
    }
    group.agree(partial(run_dir.check_provenance, folder, facts))
    on_early = partial(run_dir.note, folder, "test_read_before_testing", True)
    watched = WatchedPixels(data.pixels, len(data.source), data.split.test, on_early)
    saved = read_progress(folder, config, device)
    progress = saved[0] if saved else Progress()
    if saved:
        log.info("going on in epoch %d after step %d", progress.epoch, progress.step)
    watched_data = replace(data, pixels=watched)
    job = prepare_job(config, model, watched_data, folder, device, group, stop, header, progress)
    job = replace(job, on_epoch=tracking.update)
    state = run_loop(job, progress, saved[1:] if saved else None)
    if not group.leader:
        return
    model.load_state_dict(model.state_dict() | state.best)
    audit = {"freeze": audit_freeze(frozen, model, state.optimizer, trainable)}
    test_and_write(job, data, watched, progress, audit)


def _record_failure(folder: Path, error: Exception) -> None:
    """Leave the reason in the run's folder, and a bug's traceback in its log; the folder itself may be what failed.

    A run that is complete, of which the disk failed a moment later, is left as it is.
    """
    if (folder / run_dir.METRICS).exists():
        return
    reason = f"{type(error).__name__}: {error}\n"
    with suppress(OSError, RunError):
        atomic_files.write_bytes(folder / run_dir.FAILED, reason.encode("utf-8", "backslashreplace"))
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
    """Also write the log lines of this run to its own file, whatever the level that the caller has set."""
    handler = _LogFile(folder / run_dir.LOG, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        with _log_level(min(log.getEffectiveLevel(), logging.INFO)):
            yield
    finally:
        log.removeHandler(handler)
        with suppress(OSError):
            handler.close()


@contextmanager
def _log_level(level: int) -> Iterator[None]:
    before = log.level
    log.setLevel(level)
    try:
        yield
    finally:
        log.setLevel(before)
