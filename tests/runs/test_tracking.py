"""Trackers hold what the run directory holds, each epoch once, and their failure stops nothing."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepbloom import recipe
from deepbloom.config.settings import LoggerConfig, TrainConfig
from deepbloom.engine.resolve import resolve
from deepbloom.errors import ConfigError
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir
from deepbloom.runs import tracking
from deepbloom.runs.identity import Identity
from deepbloom.runs.tracking import Tracking

BASE = recipe("mini_resnet")

Run = Callable[..., tuple[int, str, str]]
COLUMNS = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
SECRET = "do-not-send-me"


def write_run(folder: Path, epochs: int, complete: bool = False) -> None:
    """Write what training leaves after so many epochs."""
    folder.mkdir(parents=True, exist_ok=True)
    run_dir.write_settings(folder, replace(BASE, seed=7, train=TrainConfig(epochs=3)), Identity({}))
    rows = [dict(zip(COLUMNS, (n, 1 / n, n / 8, 2 / n, n / 4), strict=True)) for n in range(1, epochs + 1)]
    atomic_files.write_csv(folder / run_dir.HISTORY, COLUMNS, rows)
    if complete:
        from PIL import Image

        (folder / run_dir.PLOTS).mkdir(exist_ok=True)
        Image.new("RGB", (8, 6), (250, 0, 0)).save(folder / run_dir.PLOTS / "curves.png")
        atomic_files.write_json(folder / run_dir.METRICS, {"epochs": 3, "model": "x", "test": {"top1_accuracy": 0.625}})


def stopped_and_resumed(config: LoggerConfig, folder: Path) -> None:
    """Track a run whose process ends in epoch 2 without a word, and whose last saved state is that of epoch 1."""
    killed = Tracking(config, folder)
    for epochs in (1, 2):
        write_run(folder, epochs)
        killed.update()
    again = Tracking(config, folder)
    for epochs in (2, 3):
        write_run(folder, epochs)
        again.update()
    write_run(folder, 3, complete=True)
    again.close("complete")
    Tracking(config, folder).close("complete")  # the same command once more


def test_tensorboard_has_config_epochs_metrics_and_figures_once(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    stopped_and_resumed(LoggerConfig("tensorboard"), tmp_path / "run")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("val_accuracy")] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert [(event.step, event.value) for event in events.Scalars("final/test/top1_accuracy")] == [(3, 0.625)]
    (figure,) = events.Images("curves")
    assert (figure.width, figure.height) == (8, 6)
    (config,) = events.Tensors("config/text_summary")
    assert "seed: 7" in config.tensor_proto.string_val[0].decode()


def test_mlflow_has_config_epochs_metrics_and_figures_once_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SOME_TOKEN", SECRET)
    monkeypatch.setenv("LOGNAME", SECRET)
    monkeypatch.setenv("USER", SECRET)
    stopped_and_resumed(LoggerConfig("mlflow"), tmp_path / "run")
    database = tmp_path / "mlflow" / "runs.db"
    client = mlflow.MlflowClient(f"sqlite:///{database}")
    (run,) = client.search_runs([client.get_experiment_by_name("deepbloom").experiment_id])
    history = client.get_metric_history(run.info.run_id, "val_accuracy")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 0.25), (2, 0.5), (3, 0.75)]
    final = client.get_metric_history(run.info.run_id, "final/test/top1_accuracy")
    assert [(metric.step, metric.value) for metric in final] == [(3, 0.625)]
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "7"
    assert run.data.params["train.epochs"] == "3"
    assert run.data.tags == {"mlflow.runName": "run"}
    assert [file.path for file in client.list_artifacts(run.info.run_id, "plots")] == ["plots/curves.png"]
    assert (tmp_path / "mlflow" / "figures").is_dir()
    assert SECRET.encode() not in database.read_bytes()


def test_a_tracker_that_fails_warns_and_gets_all_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    there: list[int | str] = []
    gone = [True]

    class Server:
        sent_epoch = 0

        def __init__(self, *_: Any) -> None: ...

        def epoch(self, epoch: int, values: dict) -> None:
            if gone[0] and epoch == 2:
                raise ConnectionError("the server is gone")
            there.append(epoch)

        def finish(self, epoch: int, values: dict, figures: list[Path]) -> None:
            there.append("final")

        def close(self, state: str) -> None:
            there.append(state)

    class Fresh(Server):
        def __init__(self, *_: Any) -> None:
            self.sent_epoch = max((entry for entry in there if isinstance(entry, int)), default=0)

    monkeypatch.setitem(tracking._OPENERS, "mlflow", Fresh)
    night = Tracking(LoggerConfig("mlflow"), tmp_path)
    for epochs in (1, 2, 3):
        write_run(tmp_path, epochs)
        night.update()
    assert there == [1]
    assert caplog.text.count("the server is gone") == 1
    gone[0] = False
    write_run(tmp_path, 3, complete=True)
    night.close("complete")
    assert there == [1, 2, 3, "final", "complete"]


def test_a_missing_package_is_named_before_anything_is_written(
    deepbloom: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepbloom.errors.find_spec", lambda name: None)
    code, _, err = deepbloom("train", "logger=mlflow", f"output_dir={tmp_path / 'run'}")
    assert code == 2
    assert "pip install 'deepbloom[mlflow]'" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("userinfo", ["me:secret", "token", ":secret", "me:s@cret", "me:secret with blanks"])
def test_a_user_or_password_in_the_address_is_refused(userinfo: str) -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI") as caught:
        LoggerConfig("mlflow", f"https://{userinfo}@example.org")
    assert userinfo not in str(caught.value)
    LoggerConfig("mlflow", "https://example.org/me@home")
    LoggerConfig("mlflow", "sqlite:////home/me@work/runs.db")


@pytest.mark.parametrize(
    "uri",
    [
        f"http://me:{SECRET}@127.0.0.1:9",
        f"http://{SECRET}@127.0.0.1:9",
        f"http://me:{SECRET}/@127.0.0.1:9",
        f"http://me:@{SECRET}@127.0.0.1:9",
        f"http://{SECRET}:x@127.0.0.1:nine",
        f"postgresql://me:{SECRET}@127.0.0.1:9/runs",
        f"nothing://me:{SECRET}@127.0.0.1:9",
    ],
)
def test_a_server_that_cannot_be_reached_does_not_bring_its_password_into_the_log(
    uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture,
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    write_run(tmp_path / "run", 1)
    Tracking(LoggerConfig("mlflow"), tmp_path / "run").update()
    assert "logger=mlflow failed and is left out" in caplog.text
    said = "".join(capfd.readouterr())
    assert SECRET not in caplog.text + said
    assert SECRET not in "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_where_results_are_sent_does_not_make_it_another_run() -> None:
    sent = replace(BASE, logger=LoggerConfig("mlflow", "http://localhost:5000"))
    assert resolve(sent).run_id == resolve(BASE).run_id


def test_a_trained_run_reaches_tensorboard(deepbloom: Run, images: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    small = ("model=scratch_cnn", "data=imagefolder", f"data.root={images}", "train.epochs=2", "train.batch_size=9")
    code, _, err = deepbloom("train", *small, "logger=tensorboard", f"output_dir={tmp_path / 'run'}")
    assert code == 0, err
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"), {"images": 0}).Reload()
    with open(tmp_path / "run" / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    sent = [(event.step, event.value) for event in events.Scalars("val_loss")]
    assert sent == [(int(row["epoch"]), pytest.approx(float(row["val_loss"]))) for row in rows]
    assert {"curves", "confusion"} <= set(events.Tags()["images"])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert events.Scalars("final/test/loss")[0].value == pytest.approx(metrics["test"]["loss"])
