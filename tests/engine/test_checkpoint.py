"""Checkpoints come back as they were, and nothing damaged or foreign comes back at all."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import deepbloom
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.engine import checkpoint
from deepbloom.engine.checkpoint import MODEL_KIND, STATE_KIND, model_header, read_model, read_tensors, write_tensors
from deepbloom.errors import CheckpointError
from deepbloom.models.registry import create_model

ARCHITECTURES = ("scratch_cnn", "mini_resnet", "resnet18", "efficientnet_b0", "efficientnet_lite0")


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("scratch_cnn", 3)
    path = tmp_path / "model.safetensors"
    preprocessing = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    write_tensors(path, model.state_dict(), model_header("scratch_cnn", ("a", "b", "c"), preprocessing))
    return path


def test_a_loaded_model_answers_as_the_saved_one(model_file: Path) -> None:
    torch.manual_seed(0)
    original = create_model("scratch_cnn", 3).eval()
    loaded = deepbloom.load_model(model_file)
    inputs = torch.randn(2, 3, 224, 224)
    assert torch.equal(loaded(inputs), original(inputs))
    assert not loaded.training
    assert loaded.classes == ("a", "b", "c")


def test_the_loaded_model_prepares_images_as_its_file_says(model_file: Path) -> None:
    inputs = deepbloom.load_model(model_file).preprocess(Image.new("RGB", (50, 80), (255, 0, 0)))
    assert inputs.shape == (3, 224, 224)
    torch.testing.assert_close(inputs[0], torch.full((224, 224), 2.0))
    torch.testing.assert_close(inputs[1], torch.full((224, 224), -2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_of_every_kind_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(24).reshape(2, 3, 2, 2).to(dtype).to(memory_format=torch.channels_last)
    write_tensors(tmp_path / "x", {"t": tensor, "scalar": torch.tensor(3)}, {"kind": "k", "format": 1, "n": [1]})
    tensors, header = read_tensors(tmp_path / "x", "k")
    assert torch.equal(tensors["t"], tensor)
    assert tensors["t"].dtype == dtype
    assert tensors["scalar"].shape == ()
    assert header == {"kind": "k", "format": 1, "n": [1]}


def test_every_flipped_byte_is_noticed(model_file: Path) -> None:
    content = model_file.read_bytes()
    header_end = 8 + int.from_bytes(content[:8], "little")
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(0, header_end, (60,), generator=generator).tolist()
    places += torch.randint(header_end, len(content), (20,), generator=generator).tolist()
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        model_file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            read_tensors(model_file, MODEL_KIND)
    model_file.write_bytes(content)
    read_tensors(model_file, MODEL_KIND)


def test_a_truncated_file_is_refused(model_file: Path) -> None:
    content = model_file.read_bytes()
    for length in (0, 1, 7, 8, 100, len(content) // 2, len(content) - 1):
        model_file.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_model(model_file)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not written by DeepBloom"):
        read_model(tmp_path / "foreign.safetensors")


def test_a_training_state_is_not_taken_for_a_model(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model", {"x": torch.zeros(1)}, {"kind": STATE_KIND, "format": 1})
    with pytest.raises(CheckpointError, match="training state"):
        read_model(tmp_path / "model")


def test_the_latest_weights_of_a_run_can_be_read_from_its_state(trained_run: Path, tmp_path: Path) -> None:
    """The best weights are in model.safetensors; a state beside the model of another run is refused."""
    best, latest = read_model(trained_run), read_model(trained_run / "last.ckpt")
    tensors, state = read_tensors(trained_run / "last.ckpt", STATE_KIND)
    for name, tensor in latest.network.state_dict().items():
        assert torch.equal(tensor, tensors[f"model/{name}"])
    assert latest.classes == best.classes
    write_tensors(tmp_path / "last.ckpt", tensors, state | {"run_id": "other"})
    shutil.copy(trained_run / "model.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match="of two runs"):
        read_model(tmp_path / "last.ckpt")


def test_a_model_name_from_a_file_is_looked_up_and_never_imported(tmp_path: Path) -> None:
    header = model_header("os.system", ("a", "b"), Preprocessing())
    write_tensors(tmp_path / "evil", {"x": torch.zeros(1)}, header)
    with pytest.raises(CheckpointError, match=r"os\.system"):
        read_model(tmp_path / "evil")


def test_images_are_prepared_from_any_mode_and_path_as_predict_reads_them(model_file: Path, tmp_path: Path) -> None:
    prepare = deepbloom.load_model(model_file).preprocess
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    upright, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    clear = upright.convert("RGBA")
    clear.putalpha(0)
    expected = prepare(upright)
    assert torch.equal(prepare(tmp_path / "turned.png"), expected)
    assert torch.equal(prepare(str(tmp_path / "turned.png")), expected)
    assert torch.equal(prepare(Image.open(tmp_path / "turned.png")), expected)
    assert torch.equal(prepare(clear), prepare(Image.new("RGB", (60, 40), "white")))
    assert not torch.equal(prepare(upright.transpose(Image.Transpose.ROTATE_90)), expected)


def test_equal_checkpoints_are_equal_files(model_file: Path, tmp_path: Path) -> None:
    tensors, header = read_tensors(model_file, MODEL_KIND)
    paths = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for path in paths:
        write_tensors(path, tensors, header)
    assert {path.read_bytes() for path in paths} == {model_file.read_bytes()}


@pytest.mark.parametrize("field", ["arch", "classes", "preprocessing"])
def test_a_header_without_a_needed_field_is_refused(model_file: Path, field: str) -> None:
    tensors, header = read_tensors(model_file, MODEL_KIND)
    del header[field]
    write_tensors(model_file, tensors, header)
    with pytest.raises(CheckpointError):
        read_model(model_file)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", ["fc.weight", "block1.2.running_var", "mean", "std"])
def test_a_network_with_a_number_that_is_not_finite_is_refused(model_file: Path, place: str, value: float) -> None:
    tensors, header = read_tensors(model_file, MODEL_KIND)
    if place in tensors:
        tensors[place].view(-1)[-1] = value
    else:
        header["preprocessing"][place][1] = value
    write_tensors(model_file, tensors, header)
    with pytest.raises(CheckpointError, match=place):
        read_model(model_file)


def test_loading_a_network_draws_no_random_numbers(model_file: Path) -> None:
    def streams() -> tuple:
        return torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    before = streams()
    deepbloom.load_model(model_file)
    assert streams() == before
    create_model("scratch_cnn", 3)  # the control
    assert streams() != before


def test_no_memory_is_taken_for_classes_that_only_a_header_claims(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def create(*arguments: Any, **named: Any) -> torch.nn.Module:
        built.append(torch.empty(0).device.type)
        return create_model(*arguments, **named)

    monkeypatch.setattr(checkpoint, "create_model", create)
    read_model(model_file)
    assert built == ["meta", "cpu"]
    tensors, header = read_tensors(model_file, MODEL_KIND)
    write_tensors(model_file, tensors, header | {"classes": [""] * 1_000_000})
    with pytest.raises(CheckpointError, match="not those of scratch_cnn for 1000000 classes"):
        read_model(model_file)
    assert built == ["meta", "cpu", "meta"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_is_read_back(name: str, tmp_path: Path) -> None:
    network = create_model(name, 3)
    write_tensors(tmp_path / "model", network.state_dict(), model_header(name, ("a", "b", "c"), Preprocessing()))
    found = read_model(tmp_path / "model").network.state_dict()
    assert all(torch.equal(tensor, found[key]) for key, tensor in network.state_dict().items())


def test_an_empty_run_folder_has_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_model(tmp_path)


def test_the_header_is_plain_json_that_anyone_can_read(model_file: Path) -> None:
    content = model_file.read_bytes()
    outer = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(outer["__metadata__"]["deepbloom"])["header"]["classes"] == ["a", "b", "c"]
