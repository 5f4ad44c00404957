"""``deepbloom export``: the file gives the predictions of the checkpoint, here and without torch."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from deepbloom.data.images import read_image
from deepbloom.data.preprocessing import Preprocessing, resize, to_inputs
from deepbloom.engine.checkpoint import Trained, model_header, read_model, write_tensors
from deepbloom.errors import CheckpointError, ConfigError
from deepbloom.export import formats, quantize, verify, web
from deepbloom.export.formats import FORMATS, Job, check_packages
from deepbloom.export.graph import ImageClassifier, graph_of
from deepbloom.export.opening import open_predictor
from deepbloom.export.reference import reference_source
from deepbloom.models.registry import create_model

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Any:
    """Measure little, and let torch write the same checkpoint once."""
    honest, graphs = formats.graph_of, {}

    def graph_of(job: Any, with_maps: bool = False) -> Any:
        key = (job.header, with_maps)
        if key not in graphs:
            graphs[key] = honest(job, with_maps).SerializeToString()
        return onnx.load_from_string(graphs[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "PASSES", 2)
        for module in (formats, web):
            patch.setattr(module, "graph_of", graph_of)
        yield


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an export of the run as ONNX, in fp32."""
    from deepbloom.cli import main as cli

    folder = tmp_path_factory.mktemp("export") / "onnx"
    assert cli.guarded(lambda: cli.dispatch(["export", f"ckpt={trained_run}", f"output_dir={folder}"])) == 0
    return folder


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "export.json").read_text("utf-8"))


def pixels_of(count: int, size: int = 144) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def test_the_file_agrees_with_the_checkpoint_in_batches_of_any_size(exported: Path, trained_run: Path) -> None:
    before, after = read_model(trained_run), open_predictor(str(exported / "model.onnx"))
    assert (after.classes, after.preprocessing, after.label) == (before.classes, before.preprocessing, before.label)
    for count in (1, 3):
        pixels = pixels_of(count)
        np.testing.assert_allclose(after.probabilities(pixels), before.probabilities(pixels), atol=1e-5)


def test_the_summary_says_what_was_measured(exported: Path, trained_run: Path) -> None:
    found = summary(exported)
    tested = json.loads((trained_run / "metrics.json").read_text())["test"]
    assert (found["agreement"], found["changed"], found["verified"]) == (1.0, 0, True)
    assert (found["accuracy"], found["count"]) == (tested["top1_accuracy"], tested["count"])
    assert found["low"] <= found["accuracy"] <= found["high"]
    assert found["size_bytes"] == (exported / "model.onnx").stat().st_size
    assert "fp32_latency_ms" not in found
    assert min(found[key] for key in ("latency_ms", "torch_latency_ms", "images_per_second")) > 0
    assert sorted(path.name for path in exported.iterdir()) == sorted(
        [".deepbloom", "README.md", "export.json", "model.onnx", "preprocess.py"]
    )


def test_the_card_has_what_hugging_face_reads(exported: Path) -> None:
    _, metadata, text = (exported / "README.md").read_text("utf-8").split("---\n", 2)
    content = yaml.safe_load(metadata)
    assert content["pipeline_tag"] == "image-classification"
    assert content["model-index"][0]["results"][0]["metrics"][0]["value"] == round(summary(exported)["accuracy"], 4)
    assert all(word in text for word in ("azure", "crimson", "lime", "Limits", "Split"))


def test_eval_and_predict_take_the_file(
    exported: Path, trained_run: Path, images: Path, deepbloom: Run, tmp_path: Path
) -> None:
    model, image = exported / "model.onnx", min(images.rglob("*.png"))
    tables = []
    for name, ckpt in (("run", trained_run), ("file", model)):
        for command in (["eval"], ["predict", f"image={image}"]):
            out = tmp_path / name / command[0]
            code, _, err = deepbloom(*command, f"ckpt={ckpt}", f"output_dir={out}")
            assert code == 0, err
            with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
                tables.append([[*row.values()][:3] for row in csv.DictReader(file)])
    assert tables[:2] == tables[2:]
    scores = [json.loads((tmp_path / name / "eval" / "metrics.json").read_text())["test"] for name in ("run", "file")]
    for name in ("top1_accuracy", "macro_f1", "loss", "count"):
        assert scores[0][name] == pytest.approx(scores[1][name], abs=1e-4)
    calibration = [score["calibration"]["after"]["nll"]["value"] for score in scores]
    assert calibration[0] == pytest.approx(calibration[1], abs=1e-4)


def test_robustness_takes_the_file(exported: Path, deepbloom: Run, tmp_path: Path) -> None:
    arguments = ["suite=quick", "corruptions=darkness", f"output_dir={tmp_path / 'out'}"]
    assert deepbloom("robustness", f"ckpt={exported / 'model.onnx'}", *arguments)[0] == 0
    assert (tmp_path / "out" / "robustness.csv").is_file()


def test_predicting_with_the_file_imports_neither_torch_nor_hydra(exported: Path, images: Path) -> None:
    code = (
        "import sys; from deepbloom.cli.main import dispatch; dispatch(sys.argv[1:]); "
        "print(sorted({'torch', 'hydra', 'omegaconf', 'yaml', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    command = ["predict", f"ckpt={exported / 'model.onnx'}", f"image={min(images.rglob('*.png'))}"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_other_commands_and_devices_say_what_to_give(exported: Path, images: Path, deepbloom: Run) -> None:
    model = exported / "model.onnx"
    code, _, err = deepbloom("gradcam", f"ckpt={model}", f"image={images}")
    assert (code, "is an exported file" in err) == (2, True)
    code, _, err = deepbloom("predict", f"ckpt={model}", f"image={images}", "device=cuda")
    assert (code, "runs on the CPU" in err) == (2, True)


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("kind", ["plain.png", "rotated.jpg", "transparent.png", "large.jpg", "gray.webp"])
def test_the_reference_preprocessing_is_that_of_predict(kind: str, fit: str, tmp_path: Path) -> None:
    preprocessing = Preprocessing(size=96, interpolation="bicubic", fit=fit)
    source = reference_source(preprocessing)
    assert len(source.splitlines()) <= 30
    size = (300, 4200, 3) if kind == "large.jpg" else (70, 90, 4 if kind == "transparent.png" else 3)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, size, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / kind
    (image.convert("L") if kind == "gray.webp" else image).save(path, exif=exif if "jpg" in kind else Image.Exif())
    space: dict[str, Any] = {}
    exec(source, space)
    np.testing.assert_array_equal(space["preprocess"](path)[0], resize(read_image(path), preprocessing))


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("8-bit.tif", np.array([0, 30, 100, 200], np.uint8)),
        ("16-bit.png", np.array([0, 300, 1000, 65_535], np.uint16)),
        ("16-bit.tif", np.array([0, 300, 1000, 40_000], np.uint16)),
        ("32-bit.tif", np.array([-5, 3, 700, 60_000], np.int32)),
        ("32-bit-dark.tif", np.array([0, 3, 70, 200], np.int32)),
        ("32-bit-bright.tif", np.array([0, 300, 70_000, 2**31 - 1], np.int32)),
        ("float.tif", np.array([-0.5, 0.1, 0.25, 1], np.float32)),
        ("float-beyond.tif", np.array([np.nan, np.inf, 7, 5e9], np.float32)),
        ("float-bytes.tif", np.array([0.5, 3, 100, 254.5], np.float32)),
    ],
    ids=str,
)
def test_the_reference_preprocessing_scales_deep_images_as_predict_does(
    kind: str, values: np.ndarray, rotated: bool, tmp_path: Path
) -> None:
    """The control is Pillow's own conversion, which clips: it gives other pixels but where white is 255."""
    preprocessing = Preprocessing(size=48, interpolation="bilinear", fit="crop")
    gray = Image.fromarray(np.random.default_rng(0).choice(values, (60, 90)))
    assert gray.mode in ("L", "I;16", "I", "F")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / kind
    gray.save(path, exif=exif if rotated else Image.Exif())
    space: dict[str, Any] = {}
    exec(reference_source(preprocessing), space)
    found = space["preprocess"](path)[0]
    np.testing.assert_array_equal(found, resize(read_image(path), preprocessing))
    if kind not in ("8-bit.tif", "32-bit-dark.tif", "float-bytes.tif") and not rotated:
        assert (found != resize(gray.convert("RGB"), preprocessing)).any()


def change_network_after_export(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let a format write its files as usual, and the checkpoint's network be another one when they are compared."""
    honest = FORMATS[name].write

    def poisoned(job: Any) -> Any:
        written = honest(job)
        job.trained.network.fc.bias.data.copy_(job.trained.network.fc.bias.data.roll(1) + 1)
        return written

    monkeypatch.setitem(FORMATS, name, replace(FORMATS[name], write=poisoned))


def test_a_file_that_disagrees_ends_with_4_and_a_name_that_says_so(
    trained_run: Path, deepbloom: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_network_after_export(monkeypatch, "onnx")
    code, _, err = deepbloom("export", f"ckpt={trained_run}", f"output_dir={tmp_path}")
    assert code == 4
    assert "does not give the predictions" in err
    assert (tmp_path / "disagrees-model.onnx").is_file()
    assert not (tmp_path / "model.onnx").exists()
    assert summary(tmp_path)["verified"] is False
    monkeypatch.undo()
    assert deepbloom("export", f"ckpt={trained_run}", f"output_dir={tmp_path}")[0] == 0
    assert [path.name for path in tmp_path.glob("*model.onnx")] == ["model.onnx"]


def test_a_page_that_disagrees_says_so_too_and_replaces_the_one_before(
    trained_run: Path, deepbloom: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "read_runtime", lambda: ("const a=1;export{a as default};", b"binary"))
    words = ("export", "format=web", f"ckpt={trained_run}", f"output_dir={tmp_path}")
    code, out, err = deepbloom(*words)
    assert (code, "size of the page" in out) == (0, True), err
    assert summary(tmp_path)["files"] == ["model.onnx", "index.html"]
    change_network_after_export(monkeypatch, "web")
    assert deepbloom(*words)[0] == 4
    names = ["disagrees-model.onnx", "disagrees-index.html"]
    assert summary(tmp_path)["files"] == names
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".onnx", ".html")) == sorted(names)
    sizes = [(tmp_path / name).stat().st_size for name in names]
    assert [summary(tmp_path)[key] for key in ("size_bytes", "page_bytes")] == sizes


def test_the_file_does_not_name_the_folders_of_the_machine_that_wrote_it(exported: Path) -> None:
    assert str(Path(formats.__file__).parents[2]).encode() not in (exported / "model.onnx").read_bytes()


def test_pooling_is_no_gather_in_the_graph() -> None:
    """As it is for a network whose input lies in channels-last memory: the control."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    channels_last = torch.rand(2, 3, 32, 32).to(memory_format=torch.channels_last)
    found = []
    for module, images in (
        (ImageClassifier(network, Preprocessing(size=32)), torch.zeros(2, 32, 32, 3, dtype=torch.uint8)),
        (network, channels_last),
    ):
        program = torch.export.export(module.eval(), (images,)).run_decompositions()
        found.append("as_strided" in str(program.graph))
    assert found == [False, True]


@pytest.mark.long
def test_half_precision_takes_half_of_the_bytes(exported: Path, trained_run: Path, deepbloom: Run, tmp_path: Path):
    assert deepbloom("export", f"ckpt={trained_run}", "precision=fp16", f"output_dir={tmp_path}")[0] == 0
    assert summary(tmp_path)["size_bytes"] < 0.52 * summary(exported)["size_bytes"]


def test_int8_takes_a_quarter_of_the_bytes_and_falls_back_where_activations_collapse(
    exported: Path, trained_run: Path, deepbloom: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "FLOAT_SHARES", ())
    sizes = {}
    for name, least in (("static", 0.0), ("weights", 1.1)):
        monkeypatch.setattr(quantize, "LEAST_AGREEMENT", least)
        code, _, err = deepbloom("export", f"ckpt={trained_run}", "precision=int8", f"output_dir={tmp_path / name}")
        assert code in (0, 4)
        assert ("only the weights are 8-bit" in err) == (name == "weights")
        assert ("sensitivity of operators" in err) == (name == "weights")
        sizes[name] = summary(tmp_path / name)["size_bytes"]
        assert summary(tmp_path / name)["fp32_latency_ms"] > 0
        assert bool(summary(tmp_path / name)["notes"]) == (name == "weights")
    assert max(sizes.values()) < 0.27 * summary(exported)["size_bytes"]


def fragile_job(folder: Path) -> tuple[Any, Any]:
    """A network and its graph: one channel in front of the second convolution is a thousand times as large as others.

    The network computes what it did before, since the convolution divides by as much.
    """
    rng, preprocessing = np.random.default_rng(0), Preprocessing(144)
    pixels = (pixels_of(48) * rng.random((48, 1, 1, 3))).astype(np.uint8)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        network = create_model("scratch_cnn", 3)
        network.get_parameter("fc.weight").normal_()
        mean = network(to_inputs(pixels[:16], preprocessing, torch.device("cpu"))).mean(0)
        network.get_parameter("fc.bias").copy_(-mean)  # so that all classes are predicted
        network.block1[2].weight[0] *= 1000
        network.block2[0].weight[:, 0] /= 1000
    header = model_header("scratch_cnn", ("a", "b", "c"), preprocessing)
    trained = Trained(("a", "b", "c"), preprocessing, header, network)
    job = Job(trained, "int8", folder, lambda: pixels[:16], lambda: pixels[16:], [])
    return job, graph_of(job)


def test_the_operator_that_int8_breaks_stays_in_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, model = fragile_job(tmp_path)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    finished = quantize.quantize_onnx(model, job, tmp_path / "model.onnx")
    assert convolutions[1].name in job.notes[0]
    assert "of 5 operators stay in float" in job.notes[0]
    (kept,) = (node for node in finished.graph.node if node.name == convolutions[1].name)
    assert not kept.input[1].endswith("DequantizeLinear_Output")
    (other,) = (node for node in finished.graph.node if node.name == convolutions[2].name)
    assert other.input[1].endswith("DequantizeLinear_Output")


@pytest.mark.long
def test_openvino_keeps_the_operator_that_int8_breaks_in_float_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network has random weights, so that even then 3 of 32 predictions change; 19 do otherwise."""
    pytest.importorskip("nncf", reason="the extra 'openvino' is not installed")
    monkeypatch.setattr(quantize, "LEAST_AGREEMENT", 0.8)
    job, model = fragile_job(tmp_path)
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    written = FORMATS["openvino"].write(job)
    assert convolutions[1] in job.notes[0]
    assert "of 5 operators stay in float" in job.notes[0]
    found = open_predictor(str(written[0])).logits(job.control()).argmax(1)
    assert (found == job.expected).mean() >= quantize.LEAST_AGREEMENT


def test_a_full_disk_is_not_taken_for_a_network_that_cannot_be_quantized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", full)
    node = onnx.helper.make_node("Conv", ["images", "weight"], ["probabilities"], name="conv")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "graph", [], []))
    trained: Any = SimpleNamespace(header={})
    job = Job(trained, "int8", tmp_path, lambda: pixels_of(1), lambda: pixels_of(1), [])
    with pytest.raises(OSError, match="No space left"):
        quantize.quantize_onnx(model, job, tmp_path / "model.onnx")


def agreeing_from(least: int, folder: Path) -> tuple[Any, Any, list[list[str]]]:
    """A job, what `least_in_float` finds if ``least`` of 20 operators have to stay in float, and what it tried."""
    expected = np.arange(40) % 2
    tried: list[list[str]] = []
    trained: Any = SimpleNamespace(header={}, logits=lambda pixels: np.eye(2)[pixels])
    job = Job(trained, "int8", folder, lambda: expected, lambda: expected, [])

    def quantize_all_but(kept: list[str]) -> list[str]:
        tried.append(kept)
        return kept

    def start(kept: list[str]) -> Any:
        return lambda pixels: np.eye(2)[pixels if len(kept) >= least else 0 * pixels]

    ranked = [f"operator {number}" for number in range(20)]
    return job, quantize.least_in_float(job, quantize_all_but, start, lambda: ranked), tried


@pytest.mark.parametrize(("least", "kept", "said"), [(0, 0, ""), (1, 2, "2 of 20 operators"), (6, 10, "10 of 20")])
def test_as_few_operators_stay_in_float_as_agree(least: int, kept: int, said: str, tmp_path: Path) -> None:
    job, found, tried = agreeing_from(least, tmp_path)
    assert found == [f"operator {number}" for number in range(kept)] == tried[-1]
    assert said in "".join(job.notes)
    assert bool(job.notes) == bool(kept)


def test_where_half_of_the_operators_in_float_do_not_help_only_the_weights_are_quantized(tmp_path: Path) -> None:
    job, found, tried = agreeing_from(11, tmp_path)
    assert (found, [len(kept) for kept in tried]) == (None, [0, 2, 5, 10])
    assert "only the weights are 8-bit" in job.notes[0]


def test_without_the_test_split_images_are_needed(
    trained_run: Path, images: Path, deepbloom: Run, tmp_path: Path
) -> None:
    trained = read_model(trained_run)
    write_tensors(
        tmp_path / "model.safetensors",
        trained.network.state_dict(),
        model_header("scratch_cnn", trained.classes, trained.preprocessing),
    )
    arguments = ("export", f"ckpt={tmp_path / 'model.safetensors'}", f"output_dir={tmp_path / 'out'}")
    code, _, err = deepbloom(*arguments)
    assert (code, "image=FOLDER" in err) == (2, True)
    assert not (tmp_path / "out").exists()
    assert deepbloom(*arguments, f"image={images}")[0] == 0
    code, _, err = deepbloom(*arguments, f"image={images}", "data.root=elsewhere")
    assert (code, "Nothing reads data.root with image=FOLDER" in err) == (2, True)


def test_a_format_that_is_not_written_says_why_and_what_to_do(deepbloom: Run) -> None:
    code, _, err = deepbloom("export", "ckpt=RUN", "format=litert")
    assert code == 2
    assert all(part in err for part in ("format=litert is not supported", "needs torch below 2.15", "format=onnx"))


def test_unknown_names_and_missing_packages_are_refused(
    trained_run: Path, deepbloom: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = deepbloom("export", f"ckpt={trained_run}", "format=onyx")
    assert (code, "Did you mean 'onnx'" in err) == (2, True)
    code, _, err = deepbloom("export", f"ckpt={trained_run}", "precision=int4")
    assert (code, "int8" in err) == (2, True)
    monkeypatch.setattr("deepbloom.errors.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'deepbloom\[openvino\]'"):
        check_packages("openvino", "fp32")


@pytest.mark.long
def test_openvino_gives_the_same_predictions(trained_run: Path, deepbloom: Run, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    code, _, err = deepbloom("export", f"ckpt={trained_run}", "format=openvino", f"output_dir={tmp_path}")
    assert code == 0, err
    pixels = pixels_of(3)
    found = open_predictor(str(tmp_path / "model.xml")).probabilities(pixels)
    np.testing.assert_allclose(found, read_model(trained_run).probabilities(pixels), atol=1e-4)


@pytest.mark.parametrize(
    "damage",
    [
        {"rejection": {"confidences": [0.5, 0.9], "correct": "11", "unlike": "00", "limit": 1.0}},
        {"rejection": {"confidences": [0.9]}},
        {"temperature": "warm"},
        {"model": 7},
        {},
    ],
    ids=["unsorted rejection", "incomplete rejection", "temperature", "model", "control"],
)
def test_a_file_with_a_damaged_header_is_refused_as_a_checkpoint_is(
    damage: dict[str, Any], exported: Path, trained_run: Path, tmp_path: Path
) -> None:
    model = onnx.load(exported / "model.onnx")
    (entry,) = (entry for entry in model.metadata_props if entry.key == "deepbloom")
    header = json.loads(entry.value) | damage
    entry.value = json.dumps(header)
    onnx.save(model, tmp_path / "model.onnx")
    write_tensors(tmp_path / "model.safetensors", read_model(trained_run).network.state_dict(), header)
    for name in ("model.onnx", "model.safetensors"):
        if damage:
            with pytest.raises(CheckpointError):
                open_predictor(str(tmp_path / name))
        else:
            open_predictor(str(tmp_path / name))
