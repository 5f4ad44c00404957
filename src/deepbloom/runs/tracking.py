"""Trackers: copies of a run directory in TensorBoard or MLflow, updated during training.

`Tracking.update` sends what was not sent yet, so a resumed run sends no epoch twice, and what a server missed while it
was down is sent later.
"""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deepbloom.config.schema import flatten
from deepbloom.config.settings import LoggerConfig
from deepbloom.data.cache_folder import locked_folder
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir
from deepbloom.runs.reading import read_history

log = logging.getLogger("deepbloom")

TENSORBOARD = "tensorboard"
MLFLOW_RUN = "mlflow_run.txt"
"""Holds the id under which MLflow knows the run."""
MLFLOW_FOLDER = "mlflow"
"""Beside the runs: the database and figures of all of them."""
EXPERIMENT = "deepbloom"


class Tracking:
    """Keeps a tracker up to date with a run directory. A tracker that fails warns and does not stop training."""

    def __init__(self, config: LoggerConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.tracker: TensorBoard | MLflow | None = None
        self.failed = False

    def update(self) -> None:
        """Send the epochs that the tracker does not have yet."""
        if not self.failed:
            self._guard(self._send_epochs)

    def close(self, state: str) -> None:
        """Send the rest, and leave the run as ``complete``, ``failed`` or ``partial``. A failed tracker is retried."""

        def close() -> None:
            tracker = self._send_epochs()
            if state == "complete":
                metrics = json.loads((self.folder / run_dir.METRICS).read_text("utf-8"))
                figures = sorted((self.folder / run_dir.PLOTS).glob("*.png"))
                tracker.finish(metrics["epochs"], _numbers(metrics), figures)
            tracker.close(state)

        if self.tracker or state == "complete":
            self._guard(close)

    def _send_epochs(self) -> "TensorBoard | MLflow":
        if self.tracker is None:
            settings = run_dir.load_settings((self.folder / run_dir.CONFIG).read_text("utf-8"))
            self.tracker = _OPENERS[self.config.name](self.folder, settings, self.config)
        for row in read_history(self.folder):
            epoch = int(row.pop("epoch"))
            if epoch > self.tracker.sent_epoch:
                self.tracker.epoch(epoch, row)
                self.tracker.sent_epoch = epoch
        return self.tracker

    def _guard(self, work: Callable[[], object]) -> None:
        said = ""
        try:
            work()
        except Exception as error:  # a server that is gone, a full disk, whatever a tracker raises
            self.tracker, self.failed = None, True
            said = _without_userinfo(" ".join(str(error).split()))[:300] or type(error).__name__
        if said:  # outside of the handler: a logger that fails would print the original error
            log.warning(
                "logger=%s failed and is left out: %s. Training continues; re-running the command of a complete run "
                "sends it again.",
                self.config.name,
                said,
            )


def _without_userinfo(message: str) -> str:
    """Remove user names and passwords from the URLs in a message; a password may hold anything but whitespace."""
    return re.sub(r"://\S*@", "://", message)


class TensorBoard:
    """Event files in the folder ``tensorboard`` of the run, rewritten when a run resumes."""

    def __init__(self, folder: Path, settings: dict[str, Any], _: LoggerConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
        self.writer = SummaryWriter(str(folder / TENSORBOARD))
        self.sent_epoch = 0
        lines = [f"    {key}: {value}" for key, value in flatten(settings).items()]
        self.writer.add_text("config", "\n".join(lines), 0)

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def finish(self, epoch: int, values: Mapping[str, float], figures: list[Path]) -> None:
        import numpy as np
        from PIL import Image

        self.epoch(epoch, values)
        for figure in figures:
            with Image.open(figure) as image:
                self.writer.add_image(figure.stem, np.array(image.convert("RGB")), epoch, dataformats="HWC")

    def close(self, state: str) -> None:
        self.writer.close()


class MLflow:
    """A run of the experiment ``deepbloom``, found again by the id in the run directory.

    MLflow's client, unlike its fluent interface, adds no tags of its own: no user, host, script or environment.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], config: LoggerConfig) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        beside = (folder.parent / MLFLOW_FOLDER).absolute()
        uri = config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{beside / 'runs.db'}"
        with locked_folder(beside):  # one process at a time makes the tables
            self.client = MlflowClient(uri)
            found = self.client.get_experiment_by_name(EXPERIMENT)
            artifacts = None if uri.startswith("http") else (beside / "figures").as_uri()
            experiment = found.experiment_id if found else self.client.create_experiment(EXPERIMENT, artifacts)
        self.sent_epoch = 0
        try:
            self.run_id = (folder / MLFLOW_RUN).read_text("utf-8").strip()
            self.sent_epoch = max((m.step for m in self.client.get_metric_history(self.run_id, "val_loss")), default=0)
            self.client.update_run(self.run_id, "RUNNING")
        except (FileNotFoundError, MlflowException):  # a new run, or one that this server does not know
            self.run_id = self.client.create_run(experiment, run_name=folder.name).info.run_id
            atomic_files.write_bytes(folder / MLFLOW_RUN, self.run_id.encode())
            for key, value in flatten(settings).items():
                self.client.log_param(self.run_id, key, value)

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Send the values in one piece, so that a kill leaves all of an epoch or nothing."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, [Metric(name, value, now, epoch) for name, value in values.items()])

    def finish(self, epoch: int, values: Mapping[str, float], figures: list[Path]) -> None:
        if not values.keys() <= self.client.get_run(self.run_id).data.metrics.keys():
            self.epoch(epoch, values)
        for figure in figures:
            self.client.log_artifact(self.run_id, str(figure), run_dir.PLOTS)

    def close(self, state: str) -> None:
        self.client.set_terminated(self.run_id, {"complete": "FINISHED", "failed": "FAILED"}.get(state, "KILLED"))


_OPENERS: dict[str, type[TensorBoard | MLflow]] = {"tensorboard": TensorBoard, "mlflow": MLflow}


def _numbers(metrics: Mapping[str, object]) -> dict[str, float]:
    """Return the numbers of a metrics.json, as ``final/test/top1_accuracy``."""
    return {
        f"final/{key.replace('.', '/')}": float(value)
        for key, value in flatten(metrics).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
