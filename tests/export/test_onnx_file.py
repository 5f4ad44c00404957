"""ONNX files from strangers are refused before a runtime sees them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepbloom.errors import CheckpointError
from deepbloom.export.limits import MAX_BYTES
from deepbloom.export.onnx_file import read_onnx
from deepbloom.export.opening import open_predictor

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
helper = onnx.helper
FLOAT = onnx.TensorProto.FLOAT


def save(folder: Path, nodes: list, initializers: list = [], functions: list = []) -> Path:  # noqa: B006
    images = helper.make_tensor_value_info("images", FLOAT, [1])
    graph = helper.make_graph(nodes, "graph", [images], [helper.make_tensor_value_info("y", FLOAT, [1])], initializers)
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, functions=functions).SerializeToString())
    return path


def relu(**attributes) -> Any:
    return helper.make_node("Relu", ["images"], ["y"], **attributes)


def elsewhere() -> Any:
    tensor = helper.make_tensor("weight", FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    return tensor


def giant() -> Any:
    tensor = onnx.TensorProto(name="weight", data_type=FLOAT)
    tensor.dims.extend([1 << 40, 1 << 10])
    return tensor


def branch() -> Any:
    graph = helper.make_graph([relu()], "inner", [], [helper.make_tensor_value_info("y", FLOAT, [1])])
    return helper.make_node("If", ["images"], ["y"], then_branch=graph, else_branch=graph)


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "external weights": lambda folder: save(folder, [relu()], [elsewhere()]),
    "external constant": lambda folder: save(folder, [helper.make_node("Constant", [], ["y"], value=elsewhere())]),
    "custom operator": lambda folder: save(folder, [relu(domain="com.microsoft.extensions")]),
    "control flow": lambda folder: save(folder, [branch()]),
    "giant tensor": lambda folder: save(folder, [relu()], [giant()]),
    "function": lambda folder: save(
        folder, [relu()], functions=[helper.make_function("ai.onnx", "F", ["x"], ["y"], [], [])]
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_no_classifier_needs_is_refused(name: str, tmp_path: Path) -> None:
    path = HOSTILE[name](tmp_path)
    with pytest.raises(CheckpointError, match="is refused"):
        read_onnx(path)


def test_a_plain_graph_and_its_metadata_are_read(tmp_path: Path) -> None:
    """The negative control of the tests above."""
    path = save(tmp_path, [relu()], [helper.make_tensor("weight", FLOAT, [2], [1.0, 2.0])])
    model = onnx.load(path)
    model.metadata_props.add(key="key", value="Rosé")
    path.write_bytes(model.SerializeToString())
    assert read_onnx(path) == (path.read_bytes(), {"key": "Rosé"})


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x05\x0a"])
def test_damage_is_an_error_of_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        open_predictor(str(tmp_path / "model.onnx"))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "model.onnx", "wb") as file:
        os.truncate(file.fileno(), MAX_BYTES + 1)
    with pytest.raises(CheckpointError, match="more than"):
        read_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize("layer", ["Loop", "TensorIterator", "If"])
def test_an_openvino_model_with_control_flow_is_refused(layer: str, tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    (tmp_path / "model.xml").write_text(f'<net><layers><layer id="0" type="{layer}"/></layers></net>')
    with pytest.raises(CheckpointError, match=layer):
        open_predictor(str(tmp_path / "model.xml"))


def test_an_openvino_model_without_its_weights_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(CheckpointError, match=r"the \.bin beside it"):
        open_predictor(str(tmp_path / "model.xml"))


def test_a_file_of_another_tool_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not written by deepbloom export"):
        open_predictor(str(save(tmp_path, [relu()])))
