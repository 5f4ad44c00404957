"""The model card that travels with every export: README.md as Hugging Face reads it."""

from typing import Any

import yaml

from deepbloom import __version__
from deepbloom.engine.predictor import Predictor
from deepbloom.report.formatting import format_bytes, format_milliseconds, format_percent
from deepbloom.report.pages import escape
from deepbloom.sinks import printable

NAME = "README.md"
LIBRARIES = {"onnx": "onnx", "openvino": "openvino", "web": "onnx"}
LIMITS = """\
The network knows the classes below and no others: it gives one of them to any image. Accuracy was measured on images of
the same source as those it was trained on; on other cameras, places or seasons expect less. A confidence is an
estimate, and heatmaps show where a network looks, not whether it is right to look there."""


def model_card(predictor: Predictor, found: dict[str, Any]) -> str:
    """Return the card.

    Parameters
    ----------
    predictor : Predictor
        The checkpoint.
    found : dict
        The content of export.json.
    """
    header, preprocessing = predictor.header, predictor.preprocessing
    given = header.get("data")
    data: dict[str, Any] = given if isinstance(given, dict) else {}
    name, source = escape(predictor.label), escape(str(data.get("name", "unknown")))
    fingerprint = escape(printable(str(header.get("split_fingerprint", "unknown"))[:16]))
    lines = [
        f"# {name}, {found['format']}, {found['precision']}",
        f"Classifies images into {len(predictor.classes)} classes. Trained on {source} and exported by DeepBloom "
        f"{__version__}.",
        "## Accuracy",
        _accuracy(found),
        "## Use",
        f"Input `images`: uint8 RGB of shape (B, {preprocessing.size}, {preprocessing.size}, 3), resized as "
        "`preprocess.py` does; normalization is in the graph. Output `probabilities`: float32 of shape "
        f"(B, {len(predictor.classes)}), calibrated with temperature {predictor.temperature:.3g}. "
        "Under the name `deepbloom` the file holds classes, preprocessing, split, temperature and rejection as JSON.",
        f"```bash\ndeepbloom predict ckpt={found['files'][0]} image=flower.jpg\n```",
        "## Cost",
        f"{format_bytes(found['size_bytes'])}; {format_milliseconds(found['latency_ms'])} per image "
        f"({format_milliseconds(found['torch_latency_ms'])} for the checkpoint under torch fp32) with "
        f"{found['num_threads']} threads on {escape(found['processor'])}.",
        "## Data and split",
        f"Data: {source}. Split: {escape(_split(data))}, fingerprint {fingerprint}. The licenses of the images "
        "and of the pretrained weights apply; DeepBloom's own license, MIT, covers neither. Say which apply before you "
        "pass this file on.",
        "## Limits",
        LIMITS,
        *[escape(note) + "." for note in found["notes"]],
        "## Classes",
        ", ".join(escape(printable(label)) for label in predictor.classes),
    ]
    metadata = yaml.safe_dump(_metadata(predictor.label, source, found), sort_keys=False)
    return f"---\n{metadata}---\n\n" + "\n\n".join(lines) + "\n"


def _metadata(label: str, source: str, found: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {
        "library_name": LIBRARIES.get(found["format"], found["format"]),
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "deepbloom"],
        "license": "other",
        "license_name": "see-data-and-weights",
    }
    if "accuracy" in found:
        metric = {"type": "accuracy", "value": round(found["accuracy"], 4), "name": "top-1 accuracy, test split"}
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": source, "type": source},
            "metrics": [metric],
        }
        content["model-index"] = [{"name": label, "results": [result]}]
    return content


def _accuracy(found: dict[str, Any]) -> str:
    same = (
        f"On {found['count']} images ({found['images']}) it gives the checkpoint's prediction for "
        f"{format_percent(found['agreement'])}; a probability differs by at most "
        f"{found['max_probability_difference']:.2g}."
    )
    if "accuracy" not in found:
        return f"Accuracy was not measured. {same}"
    return (
        f"{format_percent(found['accuracy'])} top-1 (95 % interval {format_percent(found['low'])} to "
        f"{format_percent(found['high'])}); the checkpoint has {format_percent(found['checkpoint_accuracy'])}. {same}"
    )


def _split(data: dict[str, Any]) -> str:
    split = data.get("split")
    return ", ".join(f"{key}={value}" for key, value in split.items()) if isinstance(split, dict) else "unknown"
