"""Settings of the commands beside ``train``, and which settings belong to which command."""

from dataclasses import dataclass, field
from typing import Any

from deepbloom.config.settings import DEVICES, DataConfig, RunConfig, check_choice, check_range
from deepbloom.errors import ConfigError


def _check_given(command: str, name: str, value: object, example: str) -> None:
    if not value:
        raise ConfigError(f"deepbloom {command} needs {name}={example}.")


@dataclass
class EvalConfig:
    """``deepbloom eval``: measure a checkpoint on the test part again."""

    ckpt: str = ""
    """A run directory or its ``model.safetensors``."""
    output_dir: str | None = None
    """Where metrics.json and predictions.csv go. None: ``outputs/eval-NAME``."""
    data: dict[str, Any] = field(default_factory=dict)
    """Settings of the data that differ from those of the run, e.g. ``data.root=PATH``."""
    batch_size: int = 64
    """Images per forward pass; results do not depend on it beyond rounding."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps`` (Apple)."""

    def __post_init__(self) -> None:
        _check_given("eval", "ckpt", self.ckpt, "RUN_OR_FILE")
        check_range("batch_size", self.batch_size, 1)
        check_choice("device", self.device, DEVICES)


@dataclass
class PredictConfig:
    """``deepbloom predict``: name the flowers in images."""

    ckpt: str = ""
    """A run directory or its ``model.safetensors``."""
    image: Any = ""
    """An image, a folder, a pattern such as ``'photos/*.jpg'``, or a list ``[a.jpg,b.jpg]``."""
    output_dir: str | None = None
    """Where predictions.csv and predictions.json go. None: only print."""
    batch_size: int = 32
    """Images per forward pass."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps`` (Apple)."""

    def __post_init__(self) -> None:
        _check_given("predict", "ckpt", self.ckpt, "RUN_OR_FILE")
        _check_given("predict", "image", self.image, "PATH_OR_FOLDER")
        check_range("batch_size", self.batch_size, 1)
        check_choice("device", self.device, DEVICES)


@dataclass
class GradcamConfig:
    """``deepbloom gradcam``: show where the network looks."""

    ckpt: Any = ""
    """A run directory or its ``model.safetensors``; several, ``[a,b]``, are shown side by side."""
    image: Any = ""
    """An image, a folder, a pattern such as ``'photos/*.jpg'``, or a list ``[a.jpg,b.jpg]``."""
    output_dir: str = "outputs/gradcam"
    """Where ``IMAGE_METHOD.png`` goes; of several methods also ``IMAGE_comparison.png``, with all side by side."""
    method: Any = "gradcam"
    """How activations and gradients become a map: see the choices below; ``[gradcam,layercam]`` or ``all``."""
    target: str = "predicted"
    """The class to explain: ``predicted``, ``top3`` (each of the three best), a class name, or its index."""
    contrast: str | None = None
    """A class name or index: explain why the target and not this one, by the difference of their logits."""
    layer: Any = "default"
    """The layer to look at: ``default`` (the last convolutional one) or a module path such as ``layer3``; of several,
    ``[layer3,layer4]``, the mean of the maps is shown."""
    save_raw: bool = False
    """Also write ``.npy``: float32 in [0, 1], of the size of the network's input; of several checkpoints or classes one
    array, a map for each in the order of the figure."""
    page: bool = False
    """Also write ``heatmaps.html``: all figures in one page that needs no other file."""
    batch_size: int = 16
    """Images per pass."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps`` (Apple)."""

    def __post_init__(self) -> None:
        _check_given("gradcam", "ckpt", self.ckpt, "RUN_OR_FILE")
        _check_given("gradcam", "image", self.image, "PATH_OR_FOLDER")
        check_range("batch_size", self.batch_size, 1)
        check_choice("device", self.device, DEVICES)


@dataclass
class ExplainConfig:
    """``deepbloom explain``: measure on the test part how far heatmaps can be believed."""

    ckpt: str = ""
    """A run directory or its ``model.safetensors``."""
    output_dir: str | None = None
    """Where explain.json, explain.csv, explain.html, figures/ and heatmaps/ go. None: ``explain/`` in the run
    directory; for a model file ``outputs/explain-NAME``."""
    data: dict[str, Any] = field(default_factory=dict)
    """Settings of the data that differ from those of the run, e.g. ``data.root=PATH``."""
    images: int = 25
    """Test images that are measured; 0 takes all. The same for every run of a split."""
    method: Any = "gradcam"
    """How maps are made: see the choices below; several, ``[gradcam,layercam]``, or ``all``."""
    layer: Any = "default"
    """The layer to look at, as in ``deepbloom gradcam``."""
    masks: str = "auto"
    """Where the flower is: ``auto`` (if the images come with masks), ``download`` (Oxford's for Flowers102, 194 MB,
    made by a program), ``off``, or a folder with a white-on-black image named like each image."""
    seed: int = 0
    """Chooses the images, the random maps and the random weights."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps`` (Apple)."""

    def __post_init__(self) -> None:
        _check_given("explain", "ckpt", self.ckpt, "RUN_OR_FILE")
        check_range("images", self.images, 0)
        check_range("seed", self.seed, 0, 2**32 - 1)
        check_choice("device", self.device, DEVICES)


@dataclass
class DemoConfig:
    """``deepbloom demo``: a page on this machine to try networks with images of one's own."""

    ckpt: Any = ""
    """A run directory or its ``model.safetensors``, or two to compare: ``[A,B]``."""
    port: int = 7860
    """Of the address 127.0.0.1, which only this machine can reach; 0 takes any free one."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps`` (Apple)."""

    def __post_init__(self) -> None:
        _check_given("demo", "ckpt", self.ckpt, "RUN_OR_FILE")
        if not 1 <= len(self.checkpoints) <= 2:
            raise ConfigError(f"ckpt names {len(self.checkpoints)} checkpoints: give one, or two to compare, as [A,B].")
        check_range("port", self.port, 0, 65535)
        check_choice("device", self.device, DEVICES)

    @property
    def checkpoints(self) -> list[str]:
        """``ckpt`` as a list."""
        return [self.ckpt] if isinstance(self.ckpt, str) else [str(name) for name in self.ckpt]


@dataclass
class InspectConfig:
    """``deepbloom data``: what is there, how it is split, and whether it can be read."""

    data: DataConfig = field(default_factory=DataConfig)
    output_dir: str = "outputs/data"
    """Where counts.csv and contact_sheet.png go."""


@dataclass
class ReportConfig:
    """``deepbloom report``: compare the runs in a folder."""

    runs: str = "outputs"
    """A folder with run directories, at any depth."""
    output_dir: str = "outputs/report"
    """Where report.md, report.csv, report.html and figures/ go."""


@dataclass
class RunsConfig:
    """``deepbloom runs``: list the runs in a folder and their state."""

    runs: str = "outputs"
    """A folder with run directories, at any depth."""


@dataclass
class DoctorConfig:
    """``deepbloom doctor``: versions, device, where data and weights are, and what is missing."""


COMMANDS = {
    "train": RunConfig,
    "eval": EvalConfig,
    "predict": PredictConfig,
    "gradcam": GradcamConfig,
    "explain": ExplainConfig,
    "runs": RunsConfig,
    "demo": DemoConfig,
    "report": ReportConfig,
    "data": InspectConfig,
    "doctor": DoctorConfig,
}
"""Settings of every command."""
