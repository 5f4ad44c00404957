"""``deepbloom robustness`` from its arguments to its files."""

import csv
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepbloom.commands.robustness import digest_network
from deepbloom.data.masks import Masks
from deepbloom.robustness.corruptions import CORRUPTIONS

FEW = "corruptions=[gaussian_noise,haze+rotation]"


@pytest.fixture
def deepbloom_here(deepbloom: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    monkeypatch.chdir(tmp_path)
    return deepbloom


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "robustness.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_one_network(trained_run: Path, tmp_path: Path, deepbloom_here: Callable) -> None:
    code, out, err = deepbloom_here("robustness", f"ckpt={trained_run}", FEW, f"output_dir={tmp_path / 'out'}")
    assert code == 0, err
    table = rows(tmp_path / "out")
    assert [(row["corruption"], row["severity"]) for row in table] == [
        (name, str(severity)) for name in ("gaussian_noise", "haze+rotation") for severity in range(1, 6)
    ]
    content = json.loads((tmp_path / "out" / "robustness.json").read_text(encoding="utf-8"))
    metrics = json.loads((trained_run / "metrics.json").read_text(encoding="utf-8"))
    (network,) = content["networks"]
    assert network["clean"]["top1_accuracy"] == pytest.approx(metrics["test"]["top1_accuracy"])
    assert network["clean"]["count"] == metrics["test"]["count"]
    for row in table:
        assert 0 <= float(row["low"]) <= float(row["top1_accuracy"]) <= float(row["high"]) <= 1
    mean = sum(float(row["top1_accuracy"]) for row in table) / len(table)
    assert network["mean_corruption_accuracy"]["value"] == pytest.approx(mean)
    assert "haze+rotation" in out
    for name in ("accuracy_by_severity", "samples"):
        with Image.open(tmp_path / "out" / "figures" / f"{name}.png") as figure:
            assert min(figure.size) > 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("arguments", [["robustness", FEW, "suite=quick"], ["eval"]], ids=lambda each: each[0])
def test_the_threads_share_the_memory_that_is_freed(arguments: list[str], trained_run: Path, tmp_path: Path) -> None:
    code = (
        "import ctypes, sys; from deepbloom.cli.main import dispatch; dispatch(sys.argv[2:])\n"
        "libc = ctypes.CDLL(None); libc.fopen.restype = ctypes.c_void_p\n"
        "libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]\n"
        "libc.malloc_info(0, libc.fopen(sys.argv[1].encode(), b'w')); libc.fflush(None)"
    )
    report = tmp_path / "memory.xml"
    arguments = [*arguments, f"ckpt={trained_run}", f"output_dir={tmp_path / 'out'}"]
    subprocess.run([sys.executable, "-c", code, report, *arguments], check=True, capture_output=True)
    pools = len(re.findall("<heap ", report.read_text()))
    assert (pools == 1) == (arguments[0] == "robustness")  # eval reads the next batch in a thread with its own pool


def test_two_networks_and_a_folder_of_ones_own(
    trained_run: Path, images: Path, tmp_path: Path, deepbloom_here: Callable
) -> None:
    shutil.copytree(trained_run, tmp_path / "other")
    ckpt = f"ckpt=[{trained_run},{tmp_path / 'other'}]"
    code, out, err = deepbloom_here("robustness", ckpt, "suite=quick", FEW, f"image={images}")
    assert code == 0, err
    content = json.loads((tmp_path / "outputs" / "robustness" / "robustness.json").read_text(encoding="utf-8"))
    assert {row["severity"] for row in content["networks"][0]["conditions"]} == {3}
    (pair,) = content["comparisons"]
    assert pair["difference"] == 0
    assert pair["low"] < 0 < pair["high"]
    own = content["networks"][0]["own_images"]
    assert own["count"] == len(list(images.rglob("*.*g")))
    assert "no difference shown" in out


def test_mistakes_are_explained(trained_run: Path, tmp_path: Path, deepbloom_here: Callable) -> None:
    code, _, err = deepbloom_here("robustness", f"ckpt={trained_run}", "corruptions=fog")
    assert code == 2
    assert all(name in err for name in CORRUPTIONS)
    code, _, err = deepbloom_here("robustness")
    assert code == 2
    assert "ckpt=RUN_OR_FILE" in err
    for name in ("lemon", "kraken"):
        (tmp_path / "own" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "own" / name / "1.png")
    code, _, err = deepbloom_here("robustness", f"ckpt={trained_run}", "suite=quick", FEW, f"image={tmp_path / 'own'}")
    assert code == 2
    assert "kraken" in err


def test_mistakes_are_found_before_anything_is_tested_or_written(
    trained_run: Path, tmp_path: Path, deepbloom_here: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control gets as far as the test."""

    class Reached(Exception):
        pass

    def run_network(*_: object) -> None:
        raise Reached

    monkeypatch.setattr("deepbloom.robustness.evaluate.run_network", run_network)
    (tmp_path / "model.onnx").write_bytes(b"")
    out = tmp_path / "out"
    for words, said in (
        (["ckpt=absent"], "No checkpoint at absent"),
        ([f"ckpt={trained_run}", "image=absent"], "absent"),
        (["ckpt=model.onnx", "heatmaps=true"], "model.onnx is an exported file. Give its run."),
    ):
        code, _, err = deepbloom_here("robustness", *words, "suite=quick", FEW, f"output_dir={out}")
        assert (code, said in err, out.exists()) == (2, True, False), err
    code, _, err = deepbloom_here("robustness", f"ckpt={trained_run}", "suite=quick", FEW, f"output_dir={out}")
    assert (code, "Reached" in err, out.exists()) == (1, True, True)


def test_heatmaps_of_corrupted_images(
    trained_run: Path, images: Path, tmp_path: Path, deepbloom_here: Callable
) -> None:
    out = tmp_path / "out"
    command = ("robustness", f"ckpt={trained_run}", "suite=quick", FEW, "heatmaps=true", f"output_dir={out}")
    code, _, err = deepbloom_here(*command)
    assert code == 2
    assert "needs masks" in err
    found = Masks(lambda index: np.eye(40, dtype=bool), "invented")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepbloom.commands.robustness.find_masks", lambda source, choice: found)
        code, printed, err = deepbloom_here(*command)
    assert code == 0, err
    assert "evidence on the object" in printed
    content = json.loads((out / "robustness.json").read_text(encoding="utf-8"))
    located = content["networks"][0]["heatmaps"]
    assert located["masks"] == "invented"
    table = list(csv.DictReader((out / "heatmaps.csv").open(encoding="utf-8")))
    assert [(row["corruption"], row["severity"]) for row in table] == [
        ("none", "0"),
        ("gaussian_noise", "3"),
        ("haze+rotation", "3"),
    ]
    for row, kept in zip(table, located["conditions"], strict=True):
        assert float(row["energy_inside"]) == kept["energy_inside"]
        assert 0 <= float(row["low"]) <= kept["energy_inside"] <= float(row["high"]) <= 1
    with Image.open(out / "figures" / "heatmaps_by_severity.png") as figure:
        assert min(figure.size) > 100


def test_the_results_of_another_network_under_the_same_name_are_not_reused(tmp_path: Path) -> None:
    for name, content in {"model.xml": "graph", "model.bin": "weights"}.items():
        (tmp_path / name).write_text(content)
    before = digest_network(tmp_path / "model.xml")
    assert digest_network(tmp_path / "model.xml") == before
    (tmp_path / "model.bin").write_text("other weights")
    after = digest_network(tmp_path / "model.xml")
    (tmp_path / "model.xml").write_text("other graph")
    assert len({before, after, digest_network(tmp_path / "model.xml")}) == 3
