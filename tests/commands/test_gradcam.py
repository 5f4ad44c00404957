"""``deepbloom gradcam`` with several targets, layers, methods and checkpoints."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from deepbloom.commands.gradcam import PAGE
from deepbloom.data.images import read_image
from deepbloom.data.preprocessing import preprocess
from deepbloom.engine.checkpoint import model_header, write_tensors
from deepbloom.errors import ConfigError
from deepbloom.explain.cam import class_activation_maps
from deepbloom.explain.methods import METHODS, cam_method
from deepbloom.explain.targets import Target, explain, read_methods, read_networks, read_targets
from deepbloom.models.registry import create_model, get_architecture

ARCHITECTURES = ("scratch_cnn", "mini_resnet", "resnet18", "efficientnet_b0", "efficientnet_lite0")

Run = Callable[..., tuple[int, str, str]]

CLASSES = ("azure", "black-eyed susan", "colt's foot", "top2", "7")


def network_input(image: Path) -> torch.Tensor:
    return preprocess(read_image(image), get_architecture("scratch_cnn").preprocessing)[None]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_target_is_a_class_by_name_or_index_the_predicted_one_or_each_of_the_best() -> None:
    assert read_targets("predicted", None, CLASSES) == [Target()]
    assert read_targets("black-eyed susan", None, CLASSES) == [Target(1)]
    assert read_targets("2", None, CLASSES) == [Target(2)]
    assert read_targets("top3", None, CLASSES) == [Target(rank=0), Target(rank=1), Target(rank=2)]
    assert len(read_targets("top9", None, CLASSES)) == 5
    assert read_targets("azure", "black-eyed susan", CLASSES) == [Target(0, against=1)]
    assert read_targets("predicted", "colt's foot", CLASSES) == [Target(against=2)]


def test_a_class_whose_name_is_a_word_or_a_number_comes_first() -> None:
    assert read_targets("top2", None, CLASSES) == [Target(3)]
    assert read_targets("7", None, CLASSES) == [Target(4)]


@pytest.mark.parametrize(
    ("classes", "target"),
    [
        (("001", "002", "010"), "1"),
        (("001", "002", "010"), "10"),
        (("a", "b", "2.0"), "2"),
        (("a", "b", "+1"), "01"),
    ],
)
def test_a_number_that_may_be_a_name_or_an_index_is_refused(classes: tuple[str, ...], target: str) -> None:
    with pytest.raises(ConfigError, match=rf"target={target} is ambiguous.* exact name"):
        read_targets(target, None, classes)
    with pytest.raises(ConfigError, match=rf"contrast={target} is ambiguous.* exact name"):
        read_targets("predicted", target, classes)


@pytest.mark.parametrize("target", ["9" * 5000, "top" + "9" * 5000])
def test_a_number_of_thousands_of_digits_is_unknown(target: str) -> None:
    with pytest.raises(ConfigError, match="Unknown target"):
        read_targets(target, None, CLASSES)


def test_an_exact_name_or_an_index_that_no_name_resembles_is_taken() -> None:
    assert read_targets("002", None, ("001", "002", "010")) == [Target(1)]
    assert read_targets("1", None, ("1", "10", "2")) == [Target(0)]
    assert read_targets("2", None, ("1", "10", "2")) == [Target(2)]
    assert read_targets("0", None, ("001", "002", "010")) == [Target(0)]
    assert read_targets("1", None, ("rose 1", "tulip 1")) == [Target(1)]


@pytest.mark.parametrize(
    ("target", "contrast", "words"),
    [
        ("azur", None, "Did you mean 'azure'"),
        ("5", None, "classes 0 to 4"),
        ("top0", None, "Unknown target"),
        ("azure", "black-eyed", "Unknown contrast 'black-eyed'.*black-eyed susan"),
        ("azure", "0", "compared with itself"),
    ],
)
def test_an_unknown_target_is_named(target: str, contrast: str | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_targets(target, contrast, CLASSES)


def test_methods_are_one_several_or_all() -> None:
    assert read_methods("layercam") == ["layercam"]
    assert read_methods(["layercam", "gradcam", "layercam"]) == ["layercam", "gradcam"]
    assert read_methods("all") == list(METHODS)
    with pytest.raises(ConfigError, match="Did you mean 'layercam'"):
        read_methods(["gradcam", "layercamm"])


def test_the_best_classes_are_explained_in_order_each_by_its_own_map(trained_run: Path) -> None:
    (network,) = read_networks(trained_run, "default", torch.device("cpu"))
    inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    explained = explain(network, inputs, "gradcam", [Target(rank=rank) for rank in range(3)])
    order = explained[0].logits.argsort(dim=1, descending=True)
    assert torch.equal(torch.stack([one.targets for one in explained]), order.T)
    for one in explained:
        assert torch.equal(one.maps, class_activation_maps(network.model, inputs, "block3", one.targets).maps)
    assert not torch.allclose(explained[0].maps, explained[2].maps, atol=0.1)


def test_the_predicted_class_is_explained_against_another(trained_run: Path) -> None:
    (network,) = read_networks(trained_run, ["block2", "default"], torch.device("cpu"))
    inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    predicted = explain(network, inputs, "gradcam", [Target()])[0].targets
    other = next(index for index in range(3) if index not in predicted)
    (explained,) = explain(network, inputs, "gradcam", [Target(against=other)])
    pair = (predicted, other)
    assert torch.equal(explained.maps, class_activation_maps(network.model, inputs, ["block2", "block3"], pair).maps)
    assert torch.equal(explained.targets, predicted)
    assert explained.against is not None
    assert explained.against.tolist() == [other, other]


def test_several_methods_and_checkpoints_are_shown_side_by_side(
    deepbloom: Run, trained_run: Path, images: Path, tmp_path: Path
) -> None:
    code, out, err = deepbloom(
        "gradcam",
        f"ckpt=[{trained_run},{trained_run / 'model.safetensors'}]",
        f"image={images / 'lime' / '00.png'}",
        "method=[gradcam,layercam]",
        "target=top2",
        "layer=[block2,block3]",
        "save_raw=true",
        "page=true",
        f"output_dir={tmp_path}",
    )
    assert code == 0, err
    assert names_in(tmp_path) == {
        "00_gradcam.png",
        "00_gradcam.npy",
        "00_layercam.png",
        "00_layercam.npy",
        "00_comparison.png",
        PAGE,
    }
    maps = np.load(tmp_path / "00_gradcam.npy")
    assert (maps.shape, maps.dtype) == ((4, 144, 144), np.float32)
    assert np.array_equal(maps[:2], maps[2:])  # the same checkpoint twice
    assert not np.array_equal(maps[0], maps[1])
    sizes = [Image.open(tmp_path / f"00_{name}.png").size for name in ("gradcam", "comparison")]
    assert sizes[1][1] > sizes[0][1]
    page = (tmp_path / PAGE).read_text()
    assert page.count("<img ") == 1
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert "00_comparison.png" in out


def test_a_contrast_is_named_in_the_figure_and_changes_the_map(
    deepbloom: Run, trained_run: Path, images: Path, tmp_path: Path
) -> None:
    arguments = ("gradcam", f"ckpt={trained_run}", f"image={images / 'lime' / '00.png'}", "save_raw=true")
    code, out, _ = deepbloom(*arguments, "target=lime", "contrast=azure", f"output_dir={tmp_path / 'pair'}")
    assert code == 0
    assert "lime rather than azure" in out
    deepbloom(*arguments, "target=lime", f"output_dir={tmp_path / 'alone'}")
    pair, alone = (np.load(tmp_path / name / "00_gradcam.npy") for name in ("pair", "alone"))
    assert pair.shape == alone.shape == (144, 144)
    assert np.abs(pair - alone).max() > 0.005


def test_a_class_is_not_compared_with_itself(deepbloom: Run, trained_run: Path, images: Path, tmp_path: Path) -> None:
    image = images / "lime" / "00.png"
    arguments = ("gradcam", f"ckpt={trained_run}", f"image={image}", "save_raw=true", f"output_dir={tmp_path}")
    code, out, err = deepbloom(*arguments, "target=top3", "contrast=azure")
    assert code == 0
    assert "azure rather than azure" not in out
    assert out.count("rather than azure") == 2
    assert f"{image}: no map of azure against itself" in err
    maps = np.load(tmp_path / "00_gradcam.npy")
    assert maps.shape == (2, 144, 144)
    assert maps.any((1, 2)).any()

    (network,) = read_networks(trained_run, "default", torch.device("cpu"))
    prediction = network.classes[int(network.model(network_input(image))[0].argmax())]
    (tmp_path / "00_gradcam.npy").unlink()
    code, _, err = deepbloom(*arguments, "target=predicted", f"contrast={prediction}")
    assert code == 2
    assert "cannot be compared with itself. Give another contrast or target." in err
    assert not (tmp_path / "00_gradcam.npy").exists()


@pytest.fixture
def registered() -> Iterator[str]:
    """The name of a method that exists during one test."""

    @cam_method("loudest", title="Loudest channel", needs="activations")
    def loudest(activations: torch.Tensor) -> torch.Tensor:
        chosen = activations.mean((2, 3)).argmax(1)
        return activations[torch.arange(len(activations)), chosen]

    yield "loudest"
    del METHODS["loudest"]


def test_one_more_method_is_one_function(
    deepbloom: Run, trained_run: Path, images: Path, tmp_path: Path, registered: str
) -> None:
    image = images / "lime" / "00.png"
    code, _, err = deepbloom(
        "gradcam",
        f"ckpt={trained_run}",
        f"image={image}",
        "method=[gradcam,loudest]",
        "save_raw=true",
        f"output_dir={tmp_path}",
    )
    assert code == 0, err
    (network,) = read_networks(trained_run, "default", torch.device("cpu"))
    with torch.no_grad():
        layers = network.model.get_submodule("block1"), network.model.get_submodule("block2")
        activations = network.model.get_submodule("block3")(layers[1](layers[0](network_input(image))))[0]
    small = activations[activations.mean((1, 2)).argmax()].relu()
    expected = F.interpolate(small[None, None], (144, 144), mode="bilinear")[0, 0]
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert np.allclose(np.load(tmp_path / "00_loudest.npy"), expected, atol=1e-4)
    assert (tmp_path / "00_comparison.png").exists()

    assert "loudest" in read_methods("all")
    assert " loudest\n" in deepbloom("gradcam", "--help")[1]
    assert "Choices: " in (message := deepbloom("gradcam", f"ckpt={trained_run}", f"image={image}", "method=no")[2])
    assert "loudest" in message


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_is_explained_from_its_checkpoint(
    deepbloom: Run, images: Path, tmp_path: Path, name: str
) -> None:
    torch.manual_seed(0)
    model = create_model(name, 3)
    header = model_header(name, ("azure", "crimson", "lime"), replace(get_architecture(name).preprocessing, size=96))
    write_tensors(tmp_path / "model.safetensors", model.state_dict(), header)
    code, _, err = deepbloom(
        "gradcam",
        f"ckpt={tmp_path}",
        f"image={images / 'lime' / '00.png'}",
        "method=layercam",
        "save_raw=true",
        f"output_dir={tmp_path}",
    )
    assert code == 0, err
    heatmap = np.load(tmp_path / "00_layercam.npy")
    assert heatmap.shape == (96, 96)
    assert (heatmap.min(), heatmap.max()) == (0, 1)


def test_class_names_need_no_quotes(deepbloom: Run, trained_run: Path, images: Path, tmp_path: Path) -> None:
    for name in ("colt's foot", "black-eyed susan", "rose, red"):
        code, _, err = deepbloom(
            "gradcam", f"ckpt={trained_run}", f"image={images / 'lime'}", f"target={name}", f"output_dir={tmp_path}"
        )
        assert code == 2
        assert f"Unknown target {name!r}" in err


def test_the_image_is_scaled_down_to_1600_pixels_unless_its_full_size_is_wanted(
    deepbloom: Run, trained_run: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (2000, 500), "red").save(tmp_path / "wide.png")
    widths = {}
    for full_size in ("false", "true"):
        folder = tmp_path / full_size
        deepbloom(
            "gradcam", f"ckpt={trained_run}", f"image={tmp_path / 'wide.png'}", f"output_dir={folder}",
            f"full_size={full_size}",
        )  # fmt: skip
        pixels = np.asarray(Image.open(folder / "wide_gradcam.png").convert("RGB"), int)
        row = pixels[pixels.shape[0] // 2]
        red = abs(row - (255, 0, 0)).max(axis=1) < 20
        widths[full_size] = int(red[red.argmax() :].argmin())  # of the image beside its heatmap
    assert widths == {"false": pytest.approx(1600, abs=3), "true": pytest.approx(2000, abs=3)}


def test_a_long_name_is_shortened(deepbloom: Run, trained_run: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("a", "ü" * 120 + "1", "ü" * 120 + "2", "z"):
        Image.new("RGB", (40, 40), "red").save(photos / f"{name}.png")
    code, _, err = deepbloom("gradcam", f"ckpt={trained_run}", f"image={photos}", f"output_dir={out}")
    assert code == 0, err
    assert sorted(path.name for path in out.glob("*.png")) == [
        "a_gradcam.png", "z_gradcam.png", f"{'ü' * 90}_gradcam.png", f"{'ü' * 90}_gradcam_2.png"
    ]  # fmt: skip
