"""The table of commands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, cast


@dataclass(frozen=True)
class Command:
    """A row of the table of commands."""

    summary: str
    schema: str
    """``module:name`` of a dataclass whose fields are the command's keys."""
    examples: tuple[str, ...]
    function: str
    """``module:name`` of the function that takes the settings, imported when the command runs."""
    multirun: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    """Keys with a fixed list of names: ``module:name`` of the collection that holds them, imported for the help."""

    @property
    def settings(self) -> type:
        """The dataclass."""
        return cast(type, load(self.schema))


def load(place: str) -> Any:
    """Import what ``module:name`` says."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


METHODS = {"method": "deepbloom.explain.methods:METHODS"}

COMMANDS: dict[str, Command] = {
    "train": Command(
        "Train a network, or several with -m, and test it once.",
        "deepbloom.config.settings:RunConfig",
        (
            "deepbloom train model=mini_resnet train.epochs=10",
            "deepbloom train model=resnet18_partial data=flowers102",
            "deepbloom train model=efficientnet_lite0_partial data=imagefolder data.root=photos",
            "deepbloom train -m model=scratch_cnn,mini_resnet seed=0,1,2",
            "deepbloom train -m model=mini_resnet data.split.folds=5 data.split.fold=0,1,2,3,4",
            "deepbloom train model=resnet18_partial data=flowers102 experiment=as_published",
        ),
        "deepbloom.commands.train:run",
        multirun=True,
    ),
    "eval": Command(
        "Evaluate a trained network on its test split again.",
        "deepbloom.config.command_settings:EvalConfig",
        ("deepbloom eval ckpt=outputs/RUN", "deepbloom eval 'ckpt=[outputs/RUN,outputs/OTHER]' tta=mirror"),
        "deepbloom.commands.eval:run",
    ),
    "predict": Command(
        "Classify images.",
        "deepbloom.config.command_settings:PredictConfig",
        (
            "deepbloom predict ckpt=outputs/RUN image=flower.jpg",
            "deepbloom predict ckpt=outputs/RUN image=photos output_dir=outputs/predictions",
            "deepbloom predict ckpt=outputs/RUN image=photos reject=auto target=0.95 evidence=3",
        ),
        "deepbloom.commands.predict:run",
    ),
    "gradcam": Command(
        "Show where a network looks, as a heatmap over the image.",
        "deepbloom.config.command_settings:GradcamConfig",
        (
            "deepbloom gradcam ckpt=outputs/RUN image=flower.jpg",
            "deepbloom gradcam ckpt=outputs/RUN image=photos target=rose method=hirescam",
            "deepbloom gradcam ckpt=outputs/RUN image=flower.jpg target=rose contrast=tulip",
            "deepbloom gradcam 'ckpt=[outputs/RUN,outputs/OTHER]' image=photos 'method=[gradcam,layercam]' page=true",
        ),
        "deepbloom.commands.gradcam:run",
        names=METHODS,
    ),
    "explain": Command(
        "Measure on the test split how faithful heatmaps are.",
        "deepbloom.config.command_settings:ExplainConfig",
        (
            "deepbloom explain ckpt=outputs/RUN",
            "deepbloom explain ckpt=outputs/RUN masks=download images=100 'method=[gradcam,layercam]'",
        ),
        "deepbloom.commands.explain:run",
        names=METHODS,
    ),
    "robustness": Command(
        "Measure networks on corrupted test images: noise, blur, color, detail, geometry.",
        "deepbloom.config.command_settings:RobustnessConfig",
        (
            "deepbloom robustness ckpt=outputs/RUN suite=quick",
            "deepbloom robustness 'ckpt=[outputs/RUN,outputs/OTHER]'",
            "deepbloom robustness ckpt=outputs/RUN 'corruptions=[rotation,haze+gaussian_noise]'",
            "deepbloom robustness ckpt=outputs/RUN suite=quick heatmaps=true",
        ),
        "deepbloom.commands.robustness:run",
        names={"corruptions": "deepbloom.robustness.corruptions:CORRUPTIONS"},
    ),
    "export": Command(
        "Write a file for other runtimes, and check that it gives the same predictions.",
        "deepbloom.config.export_settings:ExportConfig",
        (
            "deepbloom export ckpt=outputs/RUN",
            "deepbloom export ckpt=outputs/RUN format=openvino precision=int8",
            "deepbloom export ckpt=outputs/RUN format=web",
        ),
        "deepbloom.commands.export:run",
        names={"format": "deepbloom.export.formats:FORMATS"},
    ),
    "compress": Command(
        "Make a network smaller: 8-bit integers, fewer channels, or a small network taught by it.",
        "deepbloom.config.export_settings:CompressConfig",
        (
            "deepbloom compress ckpt=outputs/RUN method=int8",
            "deepbloom compress ckpt=outputs/RUN method=prune target_macs=0.5",
            "deepbloom compress 'ckpt=[outputs/RUN,outputs/OTHER]' method=distill student=mini_resnet augment=mixup",
        ),
        "deepbloom.commands.compress:run",
        names={"method": "deepbloom.export.compression:METHODS"},
    ),
    "runs": Command(
        "List runs and their state: complete, running, partial, failed or damaged.",
        "deepbloom.config.command_settings:RunsConfig",
        ("deepbloom runs", "deepbloom runs runs=outputs/sweep sort=accuracy"),
        "deepbloom.commands.runs:run",
    ),
    "demo": Command(
        "Open a page on this machine: drop an image, see predictions and heatmaps.",
        "deepbloom.config.command_settings:DemoConfig",
        ("deepbloom demo ckpt=outputs/RUN", "deepbloom demo 'ckpt=[outputs/RUN,outputs/OTHER]'"),
        "deepbloom.commands.demo:run",
    ),
    "report": Command(
        "Compare runs: a table, curves and figures.",
        "deepbloom.config.command_settings:ReportConfig",
        (
            "deepbloom report runs=outputs output_dir=outputs/report",
            "deepbloom report runs=outputs slices=cameras.csv thumbnails=false",
        ),
        "deepbloom.commands.report:run",
    ),
    "data": Command(
        "Show which images there are, how they are split, and whether they can be read.",
        "deepbloom.config.command_settings:InspectConfig",
        (
            "deepbloom data",
            "deepbloom data data=imagefolder data.root=photos",
            "deepbloom data data=imagefolder data.root=photos check=labels runs=outputs/folds",
        ),
        "deepbloom.commands.data:run",
    ),
    "doctor": Command(
        "Show versions, device, where data and weights are, and what is missing.",
        "deepbloom.config.command_settings:DoctorConfig",
        ("deepbloom doctor",),
        "deepbloom.commands.doctor:run",
    ),
}
