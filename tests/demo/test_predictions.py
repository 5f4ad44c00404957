"""Predictions for an image, and error messages for files that are not images."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette

from deepbloom.demo.app import build_app, build_page
from deepbloom.demo.guard import Guard
from deepbloom.demo.predictions import EVIDENCE, draw_result, load_networks, predict_image
from deepbloom.engine.checkpoint import read_model, write_tensors
from deepbloom.explain.figures import Tile
from demo_page import image_bytes

Run = Callable[..., tuple[int, str, str]]


def predicted(deepbloom: Run, checkpoint: Path, folder: Path, content: bytes) -> list[dict]:
    (folder / "image.png").write_bytes(content)
    arguments = ("predict", f"ckpt={checkpoint}", f"image={folder / 'image.png'}", f"output_dir={folder}")
    assert deepbloom(*arguments)[0] == 0
    return json.loads((folder / "predictions.json").read_text())[0]["top5"]


def decode(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_both_networks_predict_the_same_as_the_predict_command(page, deepbloom: Run, tmp_path: Path) -> None:
    content = image_bytes()
    result = page.predict(content)
    for network, checkpoint in zip(result["networks"], page.checkpoints, strict=True):
        assert network["top5"] == predicted(deepbloom, checkpoint, tmp_path, content)
    assert result["networks"][0]["top5"] != page.predict(image_bytes(1))["networks"][0]["top5"]


def test_an_exported_file_gives_predictions_and_no_heatmap(page, tmp_path: Path) -> None:
    """A network that sees the mean color alone, so that its probabilities can be computed by hand."""
    onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    header = read_model(page.checkpoints[0]).header
    weight = np.array([[4, 0, 1], [0, 3, 1], [1, 2, 0]], np.float32) / 255
    steps = [
        ("Cast", ["images"], ["float"], {"to": onnx.TensorProto.FLOAT}),
        ("ReduceMean", ["float", "axes"], ["mean"], {"keepdims": 0}),
        ("MatMul", ["mean", "weight"], ["logits"], {}),
        ("Softmax", ["logits"], ["probabilities"], {}),
    ]
    side = header["preprocessing"]["size"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(name, given, made, **options) for name, given, made, options in steps],
        "mean color",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", side, side, 3])],
        [onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["batch", 3])],
        [onnx.numpy_helper.from_array(np.array([1, 2]), "axes"), onnx.numpy_helper.from_array(weight, "weight")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    model.metadata_props.add(key="deepbloom", value=json.dumps(header))
    onnx.save(model, tmp_path / "model.onnx")
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 100, 50)).save(file, "png")
    networks = load_networks([str(tmp_path / "model.onnx")], "cpu")
    (found,) = predict_image(file.getvalue(), networks, "gradcam")["networks"]
    scores = np.exp(np.array([200, 100, 50]) @ weight)
    confidences = [entry["confidence"] for entry in sorted(found["top5"], key=lambda entry: entry["index"])]
    assert confidences == pytest.approx(scores / scores.sum(), abs=1e-5)
    assert found["heatmap"] is None

    for ckpt, controls in (
        (tmp_path / "model.onnx", 0),
        (page.checkpoints[0], 2),
    ):  # nothing to choose without a heatmap
        text = build_page(load_networks([str(ckpt)], "cpu"))
        assert text.count("<label hidden>") == 2 - controls
        assert text.count("<label >") == controls


def test_image_and_heatmap_come_back_in_their_sizes(page) -> None:
    result = page.predict(image_bytes())
    assert (result["width"], result["height"]) == decode(result["image"]).size == (30, 24)
    network = result["networks"][0]
    assert decode(network["heatmap"]).size == (32, 32)
    assert network["target"] == network["top5"][0]["class_name"]
    assert network["target_confidence"] == network["top5"][0]["confidence"]


def test_method_and_class_change_the_heatmap_but_not_the_prediction(page) -> None:
    first = page.predict(image_bytes(), "?target=iris&method=layercam")["networks"][0]
    for query in ("?target=rose&method=layercam", "?target=iris&method=eigencam"):
        other = page.predict(image_bytes(), query)["networks"][0]
        assert other["heatmap"] != first["heatmap"]
        assert other["top5"] == first["top5"]


def test_a_network_that_does_not_know_the_class_says_so(page) -> None:
    first, second = page.predict(image_bytes(), "?target=iris")["networks"]
    assert first["target"] == "iris"
    assert first["heatmap"]
    assert second["heatmap"] is None
    assert len(second["top5"]) == 5


def test_the_training_images_most_like_an_image_are_shown_where_they_are_on_this_machine(
    trained_run: Path, images: Path, tmp_path: Path
) -> None:
    (network,) = load_networks([str(trained_run)], "cpu")
    assert network.images is not None
    first = network.judge.training.image_ids[0]
    found = predict_image((images / first).read_bytes(), [network], "gradcam")["networks"][0]["evidence"]
    assert len(found) == EVIDENCE
    assert found[0]["image_id"] == first
    assert found[0]["similarity"] > 0.99
    assert all(decode(image["image"]).size for image in found)

    elsewhere = shutil.copytree(trained_run, tmp_path / "elsewhere")
    trained = read_model(trained_run)
    header = trained.header | {"dataset_fingerprint": "of other images"}
    write_tensors(elsewhere / "model.safetensors", trained.network.state_dict(), header)
    (other,) = load_networks([str(elsewhere)], "cpu")
    found = predict_image((images / first).read_bytes(), [other], "gradcam")["networks"][0]["evidence"]
    assert [image["image"] for image in found] == [None] * EVIDENCE


def test_a_result_as_one_image_names_the_file_and_says_none_of_these(
    checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []

    def draw_gallery(tiles: list[Tile], title: str) -> Image.Image:
        titles.extend([title, *(tile.caption for tile in tiles)])
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("deepbloom.demo.predictions.draw_gallery", draw_gallery)
    draw_result(image_bytes(), load_networks(list(map(str, checkpoints)), "cpu"), "gradcam", "predicted", "rose.jpg")
    assert titles[0] == "rose.jpg · Grad-CAM"
    assert "%" in titles[2]
    assert titles[3].startswith("none of these (unlike the training images); heatmap for ")


@pytest.mark.parametrize("content", [b"", b"no image", image_bytes()[:200], b"GIF89a\1\0\1\0\0\0\0;"])
def test_a_file_that_is_not_an_image_gets_a_message(page, content: bytes) -> None:
    status, body = page.request(body=content)
    assert status == 422
    assert json.loads(body)["error"].startswith("Cannot read this file: ")
    assert b"Traceback" not in body


@pytest.mark.parametrize("query", ["?target=nobody", "?method=__import__"])
def test_an_unknown_choice_gets_a_message(page, query: str) -> None:
    status, body = page.request(f"/predict{query}", image_bytes())
    assert status == 422
    assert "Choices: " in json.loads(body)["error"]


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(page) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((9000, 9000), np.uint8)).save(file, "png", compress_level=1)
    status, body = page.request(body=file.getvalue())
    assert status == 422
    assert "80,000,000" in json.loads(body)["error"]


def test_a_missing_package_is_named_with_the_extra(
    deepbloom: Run, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "deepbloom.demo.server", raising=False)
    code, _, err = deepbloom("demo", f"ckpt={checkpoints[0]}")
    assert code == 2
    assert "pip install 'deepbloom[demo]'" in err


@pytest.mark.parametrize("value", ["[a,b,c]", ""])
def test_one_or_two_checkpoints_are_needed(deepbloom: Run, value: str) -> None:
    code, _, err = deepbloom("demo", f"ckpt={value}")
    assert code == 2
    assert "ckpt" in err


@pytest.mark.long
@pytest.mark.parametrize("number", [2, 15])
def test_a_signal_ends_the_command_with_its_code_and_leaves_no_files(
    checkpoints: list[Path], tmp_path: Path, number: int
) -> None:
    pytest.importorskip("uvicorn", reason="the extra 'demo' is not installed")
    command = [sys.executable, "-m", "deepbloom", "demo", f"ckpt={checkpoints[0]}", "port=0"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        assert b"open http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err.decode().strip() == "deepbloom: stopped."
    assert not list(tmp_path.iterdir())


def test_without_a_cache_folder_the_page_has_no_example_images(
    checkpoints: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = load_networks([str(checkpoints[0])], "cpu")

    def examples() -> list[str]:
        guard = build_app(networks, 80)
        assert isinstance(guard, Guard)
        assert isinstance(guard.app, Starlette)
        return [str(url) for route in guard.app.routes if "examples" in (url := getattr(route, "path", ""))]

    assert "/examples/0" in examples()
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEEPBLOOM_CACHE", str(tmp_path / "file"))
    assert examples() == []
