"""``deepbloom compress``: smaller networks are runs like others, and are measured again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

from deepbloom.cli import main as cli
from deepbloom.cli.compose import recipe
from deepbloom.config.export_settings import CompressConfig
from deepbloom.config.settings import RunConfig
from deepbloom.cost import count_macs
from deepbloom.data.pixel_cache import open_pixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.engine.checkpoint import Trained, read_model, read_tensors, write_tensors
from deepbloom.engine.loss import distillation, training_loss
from deepbloom.engine.resolve import resolve
from deepbloom.engine.teacher import Teacher
from deepbloom.errors import CheckpointError
from deepbloom.export import compression, quantize, verify
from deepbloom.models.registry import create_model
from deepbloom.models.widths import shrink, widths_of
from small_data import SMALL, draw_images

Run = Callable[..., tuple[int, str, str]]
TRAINING = [word for word in SMALL if "epochs" not in word]


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "PASSES", 2)
        patch.setattr(verify, "_peak", lambda _: None)
        yield


@pytest.fixture(scope="module")
def pruned(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run pruned to half of its multiply-accumulates."""
    folder = tmp_path_factory.mktemp("compress") / "pruned"
    words = ["compress", f"ckpt={trained_run}", "method=prune", f"output_dir={folder}", "train.epochs=2", *TRAINING]
    assert cli.guarded(lambda: cli.dispatch(words)) in (0, 4)
    return folder


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "compress.json").read_text("utf-8"))


def test_a_pruned_network_has_fewer_channels(pruned: Path, trained_run: Path) -> None:
    before, after = read_model(trained_run).network, read_model(pruned).network
    found = summary(pruned)
    assert count_macs(after, 144) == found["macs"] <= 0.5 * found["checkpoint_macs"]
    assert found["checkpoint_macs"] == count_macs(before, 144)
    assert sum(p.numel() for p in after.parameters()) < sum(p.numel() for p in before.parameters())
    assert after.block2[0].out_channels < before.block2[0].out_channels
    assert found["size_bytes"] == (pruned / "model.safetensors").stat().st_size < found["checkpoint_bytes"]


def test_a_pruned_run_is_a_complete_run(pruned: Path, trained_run: Path) -> None:
    metrics = json.loads((pruned / "metrics.json").read_text("utf-8"))
    assert metrics["model"] == "scratch_cnn-pruned-0.5"
    assert metrics["macs"] == summary(pruned)["macs"]
    assert metrics["test"]["top1_accuracy"] == summary(pruned)["accuracy"]
    assert metrics["split_fingerprint"] == json.loads((trained_run / "metrics.json").read_text())["split_fingerprint"]


@pytest.mark.parametrize(
    "words",
    [
        ["eval"],
        ["predict", "image=IMAGE"],
        ["gradcam", "image=IMAGE"],
        pytest.param(["robustness", "suite=quick", "corruptions=darkness"], marks=pytest.mark.long),
        pytest.param(["export"], marks=pytest.mark.long),
    ],
    ids=lambda words: words[0],
)
def test_commands_take_a_pruned_run(words: list[str], pruned: Path, images: Path, deepbloom: Run, tmp_path: Path):
    if words[0] == "export":
        pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    image = str(min(images.rglob("*.png")))
    arguments = [word.replace("IMAGE", image) for word in words]
    code, _, err = deepbloom(*arguments, f"ckpt={pruned}", f"output_dir={tmp_path / 'out'}")
    assert code == 0, err


@pytest.mark.parametrize(("trained", "expected"), [([""], ["all"]), (["block3", "fc"], ["block3", "fc"])])
def test_what_the_checkpoint_trained_is_trained_again(
    trained: list[str], expected: list[str], trained_run: Path, tmp_path: Path
) -> None:
    configs: list[RunConfig] = []

    def train(config: RunConfig) -> Path:
        configs.append(config)
        return tmp_path

    config = CompressConfig(ckpt=str(trained_run), method="prune")
    job = compression.CompressionJob(config, tmp_path / "pruned", recipe, train)
    job.trained.header["trainable"] = trained
    compression.prune(job)
    assert [list(config.model.trainable) for config in configs] == [expected]


def test_a_pruned_run_is_a_starting_point_for_other_classes(pruned: Path) -> None:
    model = create_model("scratch_cnn", 7, weights=str(pruned))
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    own = {path: width for path, width in widths_of(read_model(pruned).network).items() if path != "fc"}
    assert {path: width for path, width in widths_of(model).items() if path != "fc"} == own


@pytest.mark.long
def test_the_same_command_leaves_a_complete_run_as_it_is(pruned: Path, trained_run: Path, deepbloom: Run) -> None:
    before = (pruned / "model.safetensors").read_bytes()
    words = ("compress", f"ckpt={trained_run}", "method=prune", f"output_dir={pruned}", "train.epochs=2", *TRAINING)
    assert deepbloom(*words)[0] in (0, 4)
    assert (pruned / "model.safetensors").read_bytes() == before


def test_another_target_needs_another_folder(pruned: Path, trained_run: Path, deepbloom: Run) -> None:
    words = ("compress", f"ckpt={trained_run}", "method=prune", f"output_dir={pruned}", "train.epochs=2", *TRAINING)
    code, _, err = deepbloom(*words, "target_macs=0.7")
    assert (code, "Choose another output_dir" in err) == (2, True)


@pytest.mark.parametrize(
    "widths",
    [
        {"fc": [592, 10**9]},
        {"block1.0": [3, 17]},
        {"block1.0": [3, 0]},
        {"block1.0": [3, True]},
        {"block1.0": [3]},
        {"__class__": [1, 1]},
        {"block1.1": [1, 1]},
        "wide",
    ],
    ids=str,
)
def test_widths_that_do_not_fit_are_refused(widths: Any, pruned: Path, tmp_path: Path) -> None:
    tensors, header = read_tensors(pruned / "model.safetensors", "deepbloom model")
    write_tensors(tmp_path / "model.safetensors", tensors, header | {"widths": widths})
    with pytest.raises(CheckpointError, match="does not describe a network"):
        read_model(tmp_path / "model.safetensors")
    write_tensors(tmp_path / "model.safetensors", tensors, header)  # the control
    read_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("arch", ["mini_resnet", "efficientnet_b0"])
def test_a_shrunk_network_keeps_the_first_channels(arch: str) -> None:
    """Depthwise convolutions and squeeze-and-excitation included: zeroed channels are as good as absent ones."""
    whole = create_model(arch, 5)
    widths = widths_of(whole)
    shrink(whole, widths)
    assert widths_of(whole) == widths
    if arch == "mini_resnet":
        inner = whole.layer1.residual
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            inner[0].weight[28:] = 0
            inner[1].bias[28:] = inner[1].running_mean[28:] = 0
            expected = whole(image)
            shrink(whole, {f"layer1.residual.{n}": w for n, w in enumerate([[32, 28], [28, 28], None, [28, 32]]) if w})
            torch.testing.assert_close(whole(image), expected)
        return
    path = "features.2.0.block.1.0"
    depthwise = whole.get_submodule(path)
    first = depthwise.weight[:8].clone()
    shrink(whole, {path: [8, 8]})
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (8, 8, 8)
    torch.testing.assert_close(depthwise.weight, first)


def test_distillation_is_the_divergence_from_the_teacher() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0], [1.0, 1.0, 0.0]])
    teacher = torch.tensor([[0.1, 0.7, 0.2], [0.3, 0.3, 0.4]])
    rows = [
        sum(p * np.log(p / q) for p, q in zip(row.tolist(), F.softmax(given / 2, 0).tolist(), strict=True))
        for row, given in zip(teacher, logits, strict=True)
    ]
    assert float(distillation(logits, teacher, 2.0)) == pytest.approx(4 * np.mean(rows), rel=1e-5)
    assert float(distillation(logits, F.softmax(logits / 2, 1), 2.0)) == pytest.approx(0, abs=1e-6)


def test_a_student_learns_from_several_teachers_and_they_are_part_of_its_identity(
    trained_run: Path, pruned: Path, deepbloom: Run, tmp_path: Path
) -> None:
    words = ["method=distill", "student=scratch_cnn", "train.epochs=1", *TRAINING]
    code, _, err = deepbloom("compress", f"ckpt=[{trained_run},{pruned}]", *words, f"output_dir={tmp_path / 'student'}")
    assert code == 0, err
    metrics = json.loads((tmp_path / "student" / "metrics.json").read_text("utf-8"))
    digests = []
    for folder in (trained_run, pruned):
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            digests += [json.loads(file.metadata()["deepbloom"])["digest"]]
    assert metrics["identity"]["train.teacher"] == ",".join(digests)
    assert metrics["model"] == "scratch_cnn-distilled"


def test_a_teacher_sees_images_at_its_own_size_and_says_calibrated_probabilities():
    sizes: list[int] = []

    class Recorder(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(x.shape[-1])
            return x.mean((2, 3))

    def member(size: int, temperature: float) -> Trained:
        trained = Trained(("a", "b", "c"), Preprocessing(size), {"temperature": temperature}, Recorder())
        trained.place(torch.device("cpu"))
        return trained

    teacher = Teacher((member(48, 0.5), member(16, 1.0)), (), Preprocessing(32), 2.0)
    plain = torch.tensor([1.0, -0.5, 0.25]).view(1, 3, 1, 1).expand(2, 3, 16, 16)
    probabilities = teacher.probabilities(plain, "fp32")
    assert sizes == [48, 16]
    torch.testing.assert_close(probabilities, (plain[:, :, 0, 0].softmax(1) + (plain[:, :, 0, 0] / 2).softmax(1)) / 2)


def test_a_teacher_sees_large_images_while_the_network_learns_from_small_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At the same crop: what the network sees is what the teacher sees, made smaller."""
    seen: list[torch.Tensor] = []
    learned: list[torch.Tensor] = []

    class Watcher(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            learned.append(x)
            return x.mean((2, 3))

    class Listener:
        temperature = 2.0

        def probabilities(self, inputs: torch.Tensor, precision: str) -> torch.Tensor:
            seen.append(inputs)
            return torch.full((len(inputs), 3), 1 / 3)

    data = {"num_classes": 3, "images_per_class": 10}
    plan = replace(resolve(recipe("mini_resnet", data=data, train={"epochs": 6})), teacher=Listener())  # type: ignore[arg-type]
    pixels = open_pixels(plan.source, plan.preprocessing, "off", 1)
    batches = plan.image_batches(pixels, slice(None))
    for epoch in (1, 6):
        inputs, targets = next(iter(batches.epoch(epoch)))
        training_loss(plan, Watcher(), inputs, targets, epoch, 0)
    assert [x.shape[-1] for x in seen] == [144, 144]
    assert [x.shape[-1] for x in learned] == [64, 112]
    for large, small in zip(seen, learned, strict=True):
        expected = F.interpolate(large, small.shape[-2:], mode="area")
        assert float((small - expected).abs().mean()) < 0.1 < float((small - expected.flip(0)).abs().mean())


def test_without_a_teacher_the_identity_does_not_name_one(trained_run: Path) -> None:
    identity = json.loads((trained_run / "metrics.json").read_text("utf-8"))["identity"]
    assert not [key for key in identity if "teacher" in key]


def test_a_teacher_of_another_split_is_refused(trained_run: Path, images: Path, deepbloom: Run, tmp_path: Path):
    words = ["train", "model=scratch_cnn", "data=imagefolder", f"data.root={images}", f"train.teacher={trained_run}"]
    code, _, err = deepbloom(*words, "data.split.seed=7", f"output_dir={tmp_path / 'out'}", *SMALL)
    assert (code, "another split" in err) == (2, True)
    code, _, err = deepbloom(*words, "train.label_smoothing=0.2", f"output_dir={tmp_path / 'out'}", *SMALL)
    assert (code, "Nothing reads train.label_smoothing" in err) == (2, True)


def test_a_network_that_loses_too_much_ends_with_4(
    trained_run: Path, deepbloom: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(job: compression.CompressionJob) -> Path:
        network = job.trained.network
        network.fc.bias.data[0] += 1000
        write_tensors(tmp_path / "model.safetensors", network.state_dict(), job.trained.header)
        return tmp_path

    monkeypatch.setitem(compression.METHODS, "distill", compression.Compression("distill", 0.01, True, poisoned))
    code, out, err = deepbloom("compress", f"ckpt={trained_run}", "method=distill", f"output_dir={tmp_path}")
    assert (code, "points of accuracy" in err, "multiply-accumulates" in out) == (4, True, True)
    assert summary(tmp_path)["verified"] is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=shrink"], "Unknown method"),
        (["method=int8", "train.epochs=3"], "Nothing reads train"),
        (["method=int8", "target_macs=0.3"], "Nothing reads target_macs"),
        (["method=prune", "target_macs=0"], "target_macs"),
        (["method=distill", "student=mini_resnest"], "mini_resnet"),
    ],
)
def test_settings_that_cannot_be_honored_are_refused(words: list[str], said: str, trained_run: Path, deepbloom: Run):
    code, _, err = deepbloom("compress", f"ckpt={trained_run}", *words)
    assert (code, said in err) == (2, True), err


def test_one_network_is_pruned_at_a_time(trained_run: Path, deepbloom: Run) -> None:
    code, _, err = deepbloom("compress", f"ckpt=[{trained_run},{trained_run}]", "method=prune")
    assert (code, "takes one checkpoint" in err) == (2, True)


@pytest.fixture
def _onnx_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """One runtime, without operators in float: what is left of a network that static int8 breaks is fine-tuning."""
    pytest.importorskip("onnxscript", reason="the extra 'onnx' is not installed")
    monkeypatch.setattr(compression, "RUNTIMES", ("onnx",))
    monkeypatch.setattr(quantize, "LEAST_AGREEMENT", 0.0)


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tells all of its 39 validation images apart."""
    folder = tmp_path_factory.mktemp("colors")
    words = ["model=scratch_cnn", "data=imagefolder", f"data.root={draw_images(folder / 'images', 40)}"]
    words += ["data.split.val_fraction=0.4", "augment=none", "train.epochs=3", *TRAINING]
    assert cli.guarded(lambda: cli.dispatch(["train", *words, f"output_dir={folder / 'run'}"])) == 0
    return folder / "run"


@pytest.mark.usefixtures("_onnx_only")
def test_a_network_that_int8_keeps_is_not_fine_tuned(colors: Path, deepbloom: Run, tmp_path: Path) -> None:
    code, _, err = deepbloom("compress", f"ckpt={colors}", f"output_dir={tmp_path}")
    assert code == 0, err
    assert (summary(tmp_path)["fine_tuned"], "fine-tuned" in err) == (False, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compress.json", "model.onnx"]


@pytest.mark.long
@pytest.mark.usefixtures("_onnx_only")
def test_fine_tuning_brings_back_what_int8_loses(
    colors: Path, deepbloom: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One channel is a thousand times as large as others, and the next layer divides by as much."""
    tensors, header = read_tensors(colors / "model.safetensors", "deepbloom model")
    for name in ("weight", "bias"):
        tensors[f"block1.2.{name}"][0] *= 1000
    tensors["block2.0.weight"][:, 0] /= 1000
    write_tensors(tmp_path / "model.safetensors", tensors, header | {"run_id": "00000000"})
    short = {"train.batch_size": 8, "train.num_threads": 1, "optimizer.lr": 1e-3, "augment": "none"}
    monkeypatch.setattr(compression, "FINE_TUNING", compression.FINE_TUNING | short)
    monkeypatch.setattr(compression, "LEAST_STEPS", 80)
    words = ("compress", f"ckpt={tmp_path / 'model.safetensors'}", f"output_dir={tmp_path / 'out'}")
    code, out, err = deepbloom(*words)
    assert code == 0, err
    found = summary(tmp_path / "out")
    assert (found["fine_tuned"], found["verified"], "int8, fine-tuned" in out) == (True, True, True)
    static, tuned = (line.split() for line in err.splitlines() if line.strip().startswith("onnx "))
    assert float(static[1]) < 70  # percent
    assert float(tuned[1]) > 95
    identity = json.loads((tmp_path / "out" / "fine-tuned" / "metrics.json").read_text("utf-8"))["identity"]
    assert identity["train.weight_bits"] in (7, 8)
    code, _, err = deepbloom("eval", f"ckpt={tmp_path / 'out' / 'model.onnx'}", f"output_dir={tmp_path / 'eval'}")
    assert code == 0, err
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["test"]["top1_accuracy"] == found["accuracy"]


def test_the_fastest_of_those_that_keep_the_accuracy_is_taken_and_else_the_most_accurate() -> None:
    def tried(verified: bool, latency_ms: float, difference: float) -> dict[str, Any]:
        return {"verified": verified, "latency_ms": latency_ms, "difference": difference}

    slow, fast, poor, worse = tried(True, 9, 0), tried(True, 5, -0.01), tried(False, 3, -0.02), tried(False, 1, -0.5)
    assert sorted([worse, poor, slow, fast], key=compression._rank) == [fast, slow, poor, worse]
