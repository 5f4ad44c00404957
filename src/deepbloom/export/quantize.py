"""Smaller numbers: weights in half precision, and weights and activations as 8-bit integers."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deepbloom.device import has_vnni
from deepbloom.engine.predictor import METADATA
from deepbloom.errors import RunError
from deepbloom.export.header import own_header
from deepbloom.export.onnx_size import WEIGHTED, halve_weights, remove_unread, weights_to_int8
from deepbloom.export.registry import Job
from deepbloom.runs import files

log = logging.getLogger("deepbloom")

Infer = Callable[[np.ndarray], np.ndarray]
"""From uint8 images, (B, S, S, 3), to probabilities, (B, C)."""

LEAST_AGREEMENT = 0.95
"""Share of control images with the checkpoint's prediction, below which int8 activations have collapsed."""
ACTIVATIONS = ("Clip", "Relu")
"""Operators that vanish in the range of the quantized tensor behind them."""
OPENVINO_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
"""Operators of OpenVINO that have weights."""
FLOAT_SHARES = (0.1, 0.25, 0.5)
"""Shares of these operators that are kept in float, until int8 agrees."""
RANKED_ON, SHOWN = 32, 5
MIXED = (
    "int8 in all operators changes {changed:.1%} of the predictions on control images: {kept} of {count} operators "
    "stay in float: {names}"
)
FALLBACK = (
    "int8 activations change {changed:.1%} of the predictions on control images: only the weights are 8-bit integers, "
    "so the file is small but no faster"
)


def finished_onnx(job: Job, model: Any, path: Path) -> Any:
    """Return an ONNX model in the precision that is asked for, with its metadata; in int8, ``path`` is written."""
    if job.precision == "fp16":
        model = halve_weights(model)
    elif job.precision == "int8":
        model = quantize_onnx(model, job, path)
    remove_unread(model)
    entry = model.metadata_props.add(key=METADATA, value=job.header)
    if job.precision == "int8":
        files.write_bytes(path, model.SerializeToString())
        entry.value = own_header(job, path)
    return model


def quantize_onnx(model: Any, job: Job, path: Path) -> Any:
    """Return an ONNX model in int8: static and per channel (QDQ).

    Where that changes too many predictions, the operators that change them most stay in float; where that does not help
    either, only the weights are quantized. On processors without VNNI, products of 8-bit numbers overflow 16 bits:
    weights get 7 bits there.
    """
    import onnx

    before, around = model.SerializeToString(), _around_network(model)
    mixed = least_in_float(
        job,
        lambda kept: _static(model, job.calibration(), path, [*around, *kept]),
        _infer,
        lambda: rank_operators(model, job, path),
    )
    return weights_to_int8(onnx.load_from_string(before)) if mixed is None else mixed


def least_in_float(
    job: Job, quantize: Callable[[list[str]], Any], start: Callable[[Any], Infer], rank: Callable[[], list[str]]
) -> Any:
    """Return the quantized model with as few operators in float as agree with the checkpoint; None where none does.

    Parameters
    ----------
    job : Job
        Gives the control images; a note says what stays in float.
    quantize : callable
        From names of operators that stay in float to a quantized model.
    start : callable
        From a model to a function that gives the probabilities of uint8 images, (B, S, S, 3).
    rank : callable
        Gives the names of operators, the most sensitive first.
    """
    whole = quantize([])
    agreement = _agreement(job, start(whole))
    if agreement >= LEAST_AGREEMENT:
        return whole
    ranked = rank()
    for share in FLOAT_SHARES:
        kept = ranked[: max(1, round(share * len(ranked)))]
        mixed = quantize(kept)
        if _agreement(job, start(mixed)) >= LEAST_AGREEMENT:
            _note(job, MIXED.format(changed=1 - agreement, kept=len(kept), count=len(ranked), names=", ".join(kept)))
            return mixed
    _note(job, FALLBACK.format(changed=1 - agreement))
    return None


def rank_operators(model: Any, job: Job, path: Path) -> list[str]:
    """Return the names of the operators with weights, the most sensitive first.

    Sensitivity is the mean over `RANKED_ON` control images of the largest change of a probability when this operator
    alone is quantized; the first are logged.
    """
    pixels, calibration = job.control()[:RANKED_ON], job.calibration()[:RANKED_ON]
    around, float_probabilities = _around_network(model), _infer(model)(pixels)
    operators = [node for node in model.graph.node if node.op_type in WEIGHTED and node.name not in around]
    behind = {node.input[0]: node.name for node in model.graph.node if node.op_type in ACTIVATIONS}
    changes = {}
    for node in operators:
        only = [node.name, *filter(None, [behind.get(node.output[0])])]
        alone = _infer(_static(model, calibration, path, around, only))(pixels)
        changes[node.name] = float(np.abs(alone - float_probabilities).max(1).mean())
    ranked = sorted(changes, key=lambda name: -changes[name])
    shown = ", ".join(f"{name} {changes[name]:.2g}" for name in ranked[:SHOWN])
    log.info("sensitivity of operators, mean change of a probability: %s", shown)
    return ranked


def _static(model: Any, images: np.ndarray, path: Path, excluded: list[str], only: list[str] | None = None) -> Any:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {"images": image[None]}

    written = path.with_name("quantized.onnx")
    logging.disable(logging.WARNING)  # advice to change the graph first, once for each operator
    try:
        quantize_static(
            onnx.load_from_string(model.SerializeToString()),
            written,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=not has_vnni(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=[*WEIGHTED, *ACTIVATIONS, "Add", "Mul", "GlobalAveragePool", "ReduceMean", "MaxPool"],
            nodes_to_quantize=only,
            nodes_to_exclude=excluded,
        )
        return onnx.load(written)
    except OSError:
        raise
    except Exception as error:  # the quantizer raises anything
        raise RunError(f"ONNX Runtime cannot quantize this network: {str(error).splitlines()[0][:300]}") from error
    finally:
        logging.disable(logging.NOTSET)
        written.unlink(missing_ok=True)


def _infer(model: Any) -> Infer:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["probabilities"], {"images": pixels})[0]


def _around_network(model: Any) -> list[str]:
    """Return the names of the nodes that normalize the image and give probabilities: these stay in fp32."""
    nodes = list(model.graph.node)
    first = next(number for number, node in enumerate(nodes) if node.op_type in WEIGHTED)
    last = max(number for number, node in enumerate(nodes) if node.op_type in WEIGHTED)
    for number, node in enumerate(nodes):
        node.name = node.name or f"node_{number}"
    return [node.name for node in [*nodes[:first], *nodes[last + 1 :]]]


def quantize_openvino(model: Any, onnx_model: Any, job: Job, path: Path) -> Any:
    """Return an OpenVINO model in int8 by NNCF, with the fallbacks of `quantize_onnx`.

    Parameters
    ----------
    model : openvino.Model
        Read from ``onnx_model``, in which sensitivity is measured.
    onnx_model : onnx.ModelProto
    job : Job
    path : Path
        What is written, in a folder for temporary files.
    """
    os.environ.setdefault("NNCF_CI", "true")  # no usage statistics
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # nncf imports it, and it misses a GPU
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import OverflowFix

    nncf.set_log_level(logging.ERROR)
    images = job.calibration()
    overflow = OverflowFix.FIRST_LAYER if has_vnni() else OverflowFix.ENABLE
    settings = {
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(images),
        "advanced_parameters": nncf.AdvancedQuantizationParameters(overflow_fix=overflow),
    }

    def quantize(kept: list[str]) -> Any:
        scope = nncf.IgnoredScope(names=_with_inputs(model, kept)) if kept else None
        return nncf.quantize(model, nncf.Dataset([image[None] for image in images]), ignored_scope=scope, **settings)

    def start(quantized: Any) -> Infer:
        compiled = openvino.Core().compile_model(quantized, "CPU")
        return lambda pixels: np.asarray(compiled(pixels)[0])

    mixed = least_in_float(job, quantize, start, lambda: rank_operators(onnx_model, job, path))
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM) if mixed is None else mixed


def _with_inputs(model: Any, kept: list[str]) -> list[str]:
    """Return the names in an OpenVINO model of operators, and of those without weights whose output they read."""
    names = []
    for operator in model.get_ops():
        if operator.get_friendly_name().partition("/")[0] in kept:  # a bias makes it NAME/WithoutBiases
            names.append(operator.get_friendly_name())
            before = operator.input_value(0).get_node()
            while before.get_input_size() and before.get_type_name() not in OPENVINO_WEIGHTED:
                names.append(before.get_friendly_name())
                before = before.input_value(0).get_node()
    return names


def _agreement(job: Job, infer: Infer) -> float:
    """Return the share of control images on which a model gives the checkpoint's predictions."""
    found = np.concatenate([infer(pixels).argmax(1) for pixels in job.control_batches()])
    return float((found == job.expected).mean())


def _note(job: Job, text: str) -> None:
    job.notes.append(text)
    log.warning("%s.", text)
