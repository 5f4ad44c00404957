"""Help for people, made from the settings' own docstrings and the names in ``conf/``; imports nothing heavy."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

from deepbloom.config import commands as command_config
from deepbloom.config import settings as config

WIDTH = 100

EXAMPLES = {
    "train": (
        "deepbloom train model=mini_resnet train.epochs=10",
        "deepbloom train model=resnet18_partial data=flowers102",
        "deepbloom train model=efficientnet_lite0_partial data=imagefolder data.root=photos",
        "deepbloom train -m model=scratch_cnn,mini_resnet seed=0,1,2",
        "deepbloom train -m model=mini_resnet data.split.folds=5 data.split.fold=0,1,2,3,4",
        "deepbloom train model=resnet18_partial data=flowers102 experiment=as_published",
    ),
    "eval": ("deepbloom eval ckpt=outputs/RUN",),
    "predict": (
        "deepbloom predict ckpt=outputs/RUN image=flower.jpg",
        "deepbloom predict ckpt=outputs/RUN image=photos output_dir=outputs/named",
    ),
    "gradcam": (
        "deepbloom gradcam ckpt=outputs/RUN image=flower.jpg",
        "deepbloom gradcam ckpt=outputs/RUN image=photos target=rose method=hirescam",
        "deepbloom gradcam ckpt=outputs/RUN image=flower.jpg target=rose contrast=tulip",
        "deepbloom gradcam ckpt=[outputs/RUN,outputs/OTHER] image=photos method=[gradcam,layercam] page=true",
    ),
    "explain": (
        "deepbloom explain ckpt=outputs/RUN",
        "deepbloom explain ckpt=outputs/RUN masks=download images=100 method=[gradcam,layercam]",
    ),
    "runs": ("deepbloom runs", "deepbloom runs runs=outputs/sweep"),
    "demo": ("deepbloom demo ckpt=outputs/RUN", "deepbloom demo 'ckpt=[outputs/RUN,outputs/OTHER]'"),
    "report": ("deepbloom report runs=outputs output_dir=outputs/report",),
    "data": ("deepbloom data", "deepbloom data data=imagefolder data.root=photos"),
    "doctor": ("deepbloom doctor",),
}


def conf_dir() -> Path:
    """Return the folder of the YAML files: inside an installed package, or beside ``src/`` in a checkout."""
    package = Path(__file__).parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parents[1] / "conf"


def choices() -> dict[str, list[str]]:
    """Return the names in every config group, e.g. ``{"model": ["mini_resnet", ...]}``."""
    folders = sorted(folder for folder in conf_dir().iterdir() if folder.is_dir())
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def groups_of(command: str) -> dict[str, list[str]]:
    """Return those groups of `choices` that ``command`` takes."""
    schema = command_config.COMMANDS[command]
    used = choices().keys() if schema is config.RunConfig else get_type_hints(schema).keys()
    return {group: names for group, names in choices().items() if group in used}


def overview(commands: dict[str, str]) -> str:
    """Return the text of ``deepbloom --help``."""
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in commands.items()]
    names = [f"  {group:<10}  {', '.join(names)}" for group, names in choices().items()]
    return "\n".join(
        [
            "deepbloom COMMAND [key=value ...]",
            "",
            "Train, compare and explain image classifiers.",
            "",
            "Commands (deepbloom COMMAND --help lists the keys of each):",
            *lines,
            "",
            "Names to choose from, e.g. model=mini_resnet:",
            *names,
            "",
            "Start here:",
            "  deepbloom train model=mini_resnet train.epochs=5",
            "  deepbloom report",
        ]
    )


def command(name: str, summary: str) -> str:
    """Return the text of ``deepbloom COMMAND --help``."""
    schema = command_config.COMMANDS[name]
    multirun = " [-m]" if name == "train" else ""
    lines = [f"deepbloom {name}{multirun} [key=value ...]", "", summary, "", "Examples:"]
    lines += [f"  {example}" for example in EXAMPLES[name]]
    lines += _names(name)
    keys = list(_keys(schema))
    if keys:
        lines += ["", "Keys (default):"]
        for key, default, text in keys:
            lines.append(f"  {key}={default}")
            lines += textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    if name in ("gradcam", "explain"):
        lines += ["", "Methods: gradcam, gradcam++, hirescam, layercam, xgradcam, eigencam, scorecam, ablationcam"]
    lines += ["", "--cfg job shows the settings without running. " + _MULTIRUN.get(name, "")]
    return "\n".join(lines).rstrip()


_MULTIRUN = {"train": "-m runs every combination of values that are separated by commas."}


def _names(command: str) -> list[str]:
    groups = groups_of(command)
    return ["", "Names to choose from:"] * bool(groups) + [
        f"  {key}={'|'.join(names)}" for key, names in groups.items()
    ]


def _default(entry: Field) -> str:
    value = entry.default if entry.default is not MISSING else ""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _keys(schema: type, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    kinds, docs = get_type_hints(schema), _field_docstrings(schema)
    for entry in fields(schema):
        kind = kinds[entry.name]
        if is_dataclass(kind):
            yield from _keys(kind, f"{prefix}{entry.name}.")  # type: ignore[arg-type]
        elif entry.name != "name":  # chosen as a group: model=NAME
            yield f"{prefix}{entry.name}", _default(entry), docs[entry.name].replace("``", "")


def _field_docstrings(schema: type) -> dict[str, str]:
    """Return the string that stands below each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0].body  # type: ignore[attr-defined]
    docs = {}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            docs[statement.target.id] = " ".join(following.value.value.split())  # type: ignore[union-attr,attr-defined]
    return docs
