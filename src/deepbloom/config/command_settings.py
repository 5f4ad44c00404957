"""The settings of the commands other than ``train``, ``export`` and ``compress``, typed and checked."""

from dataclasses import dataclass
from typing import Any

from deepbloom.config.data_settings import DataConfig
from deepbloom.config.schema import as_list, check_choice, check_range, setting
from deepbloom.config.settings import DEVICES, TARGET
from deepbloom.errors import ConfigError

LOOPBACK = "127.0.0.1"


def _check(command: str, settings: Any) -> None:
    """Check the keys that several commands share, as far as this one has them."""
    for name, example in (("ckpt", "RUN_OR_FILE"), ("image", "PATH_OR_FOLDER")):
        if not getattr(settings, name, True):
            raise ConfigError(f"deepbloom {command} needs {name}={example}.")
    check_range("batch_size", getattr(settings, "batch_size", 1), 1)
    check_choice("device", settings.device, DEVICES)
    check_choice("tta", getattr(settings, "tta", "none"), ("none", "mirror"))


@dataclass
class EvalConfig:
    """Settings of ``deepbloom eval``."""

    ckpt: Any = setting("", path=True)
    """A run directory, its ``model.safetensors``, or an exported file; ``last``: the newest complete run in
    ``outputs``; several, ``[a,b]``: the mean of their probabilities."""
    output_dir: str | None = setting(None, path=True)
    """Where metrics.json and predictions.csv go. None: ``outputs/eval-NAME``."""
    data: dict[str, Any] = setting(changes=DataConfig)
    """Data settings that differ from the run's, e.g. ``data.root=PATH``."""
    tta: str = "none"
    """``mirror``: the mean of the probabilities of an image and its mirror image, in twice the time; ``none``."""
    batch_size: int = 64
    """Images per forward pass; results do not depend on it beyond rounding."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps`` (Apple)."""

    def __post_init__(self) -> None:
        _check("eval", self)


@dataclass
class PredictConfig:
    """Settings of ``deepbloom predict``."""

    ckpt: Any = setting("", path=True)
    """A run directory or its ``model.safetensors``; ``last``: the newest complete run in ``outputs``. Several,
    ``[a,b]``: the mean of their probabilities."""
    image: Any = setting("", path=True)
    """An image, a folder, a pattern such as ``'photos/*.jpg'``, a list ``[a.jpg,b.jpg]``, or ``sample`` (drawn flowers
    and two photographs)."""
    output_dir: str | None = setting(None, path=True)
    """Where predictions.csv and predictions.json go. None: only print."""
    tta: str = "none"
    """``mirror``: the mean of the probabilities of an image and its mirror image, in twice the time; ``none``."""
    reject: str = "off"
    """``auto``: predictions that the network is not sure of, and images unlike its training images, become
    ``none of these``."""
    target: float = setting(TARGET, only=("reject=auto", lambda predict: predict.reject == "auto"))
    """Share of the accepted predictions that must be correct. It holds for images like those of validation, with 95 %
    confidence."""
    evidence: int = 0
    """Number of the most similar training images to name with each prediction."""
    batch_size: int = 32
    """Images per forward pass."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps`` (Apple)."""

    def __post_init__(self) -> None:
        _check("predict", self)
        check_choice("reject", self.reject, ("off", "auto"))
        if 50 <= self.target < 100:
            raise ConfigError(f"target is a share, not a percentage: write target={self.target / 100:g}.")
        check_range("target", self.target, 0.5, 0.9999)
        check_range("evidence", self.evidence, 0, 100)


@dataclass
class GradcamConfig:
    """Settings of ``deepbloom gradcam``."""

    ckpt: Any = setting("", path=True)
    """A run directory or its ``model.safetensors``; several, ``[a,b]``, are shown side by side."""
    image: Any = setting("", path=True)
    """An image, a folder, a pattern such as ``'photos/*.jpg'``, a list ``[a.jpg,b.jpg]``, or ``sample`` (drawn flowers
    and two photographs)."""
    output_dir: str = setting("outputs/gradcam", path=True)
    """Where ``IMAGE_METHOD.png`` goes; for several methods also ``IMAGE_comparison.png``, with all side by side."""
    method: Any = "gradcam"
    """One of the methods listed above, several such as ``[gradcam,layercam]``, or ``all``."""
    target: str = setting("predicted", text=True)
    """The class to explain: ``predicted``, ``top3`` (each of the top three), a class name, or its index."""
    contrast: str | None = setting(None, text=True)
    """A class name or index: explain the difference between the logits of the target and of this class."""
    layer: Any = "default"
    """The layer to explain: ``default`` (the last convolutional one) or a module path such as ``layer3``; for several,
    ``[layer3,layer4]``, the mean of their maps."""
    save_raw: bool = False
    """Also write ``.npy``: float32 in [0, 1], the size of the network's input; for several checkpoints or classes one
    array, with a map for each in the order of the figure."""
    full_size: bool = False
    """Show images in their full size; otherwise their longer side has at most 1,600 pixels."""
    gray: bool = False
    """Show the image under a heatmap in gray."""
    page: bool = False
    """Also write ``heatmaps.html``: one self-contained page with all figures."""
    batch_size: int = 16
    """Images per pass."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps`` (Apple)."""

    def __post_init__(self) -> None:
        _check("gradcam", self)


@dataclass
class ExplainConfig:
    """Settings of ``deepbloom explain``."""

    ckpt: str = setting("", path=True)
    """A run directory or its ``model.safetensors``; ``last``: the newest complete run in ``outputs``."""
    output_dir: str | None = setting(None, path=True)
    """Where explain.json, explain.csv, explain.html, figures/ and heatmaps/ go. None: ``explain/`` in the run
    directory; for a model file ``outputs/explain-NAME``."""
    data: dict[str, Any] = setting(changes=DataConfig)
    """Data settings that differ from the run's, e.g. ``data.root=PATH``."""
    images: int = 25
    """Number of test images; 0 takes all. Every run of a split gets the same ones."""
    method: Any = "gradcam"
    """One of the methods listed above, several such as ``[gradcam,layercam]``, or ``all``."""
    layer: Any = "default"
    """The layer to explain, as in ``deepbloom gradcam``."""
    masks: str = setting("auto", path=True)
    """Segmentation masks of the object: ``auto`` (if the images come with masks), ``download`` (Oxford's automatic ones
    for Flowers102, 194 MB), ``off``, or a folder with a white-on-black image named like each image."""
    seed: int = 0
    """Seed of the choice of images, the random maps and the random weights."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps`` (Apple)."""

    def __post_init__(self) -> None:
        _check("explain", self)
        check_range("images", self.images, 0)
        check_range("seed", self.seed, 0, 2**32 - 1)


@dataclass
class RobustnessConfig:
    """Settings of ``deepbloom robustness``."""

    ckpt: Any = setting("", path=True)
    """A run directory or its ``model.safetensors``; several, ``[a,b]``, are compared on the same images."""
    output_dir: str | None = setting(None, path=True)
    """Where robustness.csv, robustness.json, images.csv and figures/ go. None: ``robustness/`` in the run directory;
    for several checkpoints ``outputs/robustness``."""
    data: dict[str, Any] = setting(changes=DataConfig)
    """Data settings that differ from the run's, e.g. ``data.root=PATH``."""
    suite: str = "full"
    """``full``: five severities of all test images. ``quick``: severity 3 of 200 test images."""
    corruptions: Any = "all"
    """``all``, or some of those listed above, such as ``[gaussian_noise,rotation]``. ``haze+rotation`` applies both."""
    images: int = 0
    """Number of test images; 0 takes all, or 200 with ``suite=quick``."""
    image: str = setting("", path=True)
    """A folder of your own images, one folder per class, that is measured beside the test split."""
    heatmaps: bool = False
    """Also measure, on test images with a mask, whether the heatmaps still lie on the object."""
    seed: int = 0
    """Seed of the random corruptions and of the choice of images."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps`` (Apple)."""

    def __post_init__(self) -> None:
        if not self.ckpt:
            raise ConfigError("deepbloom robustness needs ckpt=RUN_OR_FILE.")
        check_choice("device", self.device, DEVICES)
        check_choice("suite", self.suite, ("full", "quick"))
        check_range("images", self.images, 0)
        check_range("seed", self.seed, 0, 2**32 - 1)

    @property
    def checkpoints(self) -> list[str]:
        """``ckpt`` as a list."""
        return [str(name) for name in as_list(self.ckpt)]


@dataclass
class DemoConfig:
    """Settings of ``deepbloom demo``."""

    ckpt: Any = setting("", path=True)
    """A run directory or its ``model.safetensors``, or two to compare: ``[A,B]``."""
    port: int = 7860
    """0 takes any free one."""
    host: str = LOOPBACK
    """Only this machine can reach 127.0.0.1. ``0.0.0.0`` lets others in who know the address with its token."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps`` (Apple)."""

    def __post_init__(self) -> None:
        _check("demo", self)
        if not 1 <= len(self.checkpoints) <= 2:
            raise ConfigError(f"ckpt names {len(self.checkpoints)} checkpoints: give one, or two to compare, as [A,B].")
        check_range("port", self.port, 0, 65535)
        if not self.host:
            raise ConfigError(f"host is empty: give host={LOOPBACK}, or host=0.0.0.0 to let others in.")
        if self.host == "localhost":
            self.host = LOOPBACK

    @property
    def checkpoints(self) -> list[str]:
        """``ckpt`` as a list."""
        return [str(name) for name in as_list(self.ckpt)]


@dataclass
class InspectConfig:
    """Settings of ``deepbloom data``."""

    data: DataConfig
    output_dir: str = setting("outputs/data", path=True)
    """Where counts.csv, quality.csv and contact_sheet.png go; with ``check=labels``, labels.html, label_suspects.csv,
    label_conflicts.csv (near-duplicates with different labels) and label_outliers.csv."""
    check: str = "off"
    """``labels``: find images whose label is probably wrong, from runs that tested every image in a fold."""
    runs: str = setting("outputs", path=True, only=("check=labels", lambda inspect: inspect.check == "labels"))
    """The folder with these runs, at any depth."""
    thumbnails: bool = setting(True, only=("check=labels", lambda inspect: inspect.check == "labels"))
    """Whether labels.html shows the images, small."""

    def __post_init__(self) -> None:
        check_choice("check", self.check, ("off", "labels"))


@dataclass
class ReportConfig:
    """Settings of ``deepbloom report``."""

    runs: str = setting("outputs", path=True)
    """A folder with run directories, at any depth."""
    output_dir: str = setting("outputs/report", path=True)
    """Where report.md, report.csv, report.html and figures/ go."""
    thumbnails: bool = True
    """Whether report.html holds the test images, small, if they are where the runs found them."""
    slices: str | None = setting(None, path=True)
    """A CSV file with a column ``image_id`` and others, such as ``camera``: accuracies by their values."""


SORTS = ("date", "accuracy", "name", "state")


@dataclass
class RunsConfig:
    """Settings of ``deepbloom runs``."""

    runs: str = setting("outputs", path=True)
    """A folder with run directories, at any depth."""
    sort: str = "date"
    """``date`` (the newest first), ``accuracy`` (the highest first), ``name`` or ``state``."""

    def __post_init__(self) -> None:
        check_choice("sort", self.sort, SORTS)


@dataclass
class DoctorConfig:
    """Settings of ``deepbloom doctor``: none."""
