"""Smaller numbers: weights in half precision, and weights and activations as 8-bit integers."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from deepbloom.device import has_vnni
from deepbloom.errors import RunError
from deepbloom.export.registry import Job
from deepbloom.export.runtimes import METADATA

log = logging.getLogger("deepbloom")

LEAST_AGREEMENT = 0.95
"""Share of control images with the checkpoint's prediction, below which int8 activations have collapsed."""
WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operators of ONNX that have weights."""
FLOAT_SHARES = (0.1, 0.25, 0.5)
"""Shares of these operators that are kept in float, until int8 agrees."""
RANKED_ON, SHOWN = 32, 5
MIXED = (
    "int8 in all operators changes {changed:.1%} of the predictions on control images: {kept} of {count} operators "
    "stay in float: {names}"
)
SMALL = 256
"""Tensors with fewer elements keep their precision."""
FALLBACK = (
    "int8 activations change {changed:.1%} of the predictions on control images: only the weights are 8-bit integers, "
    "so the file is small but no faster"
)


def finished_onnx(job: Job, model: Any, path: Path) -> Any:
    """Return an ONNX model in the precision that is asked for, with its metadata."""
    if job.precision == "fp16":
        model = halve_weights(model)
    elif job.precision == "int8":
        model = quantize_onnx(model, job, path)
    for key in list(model.metadata_props):
        model.metadata_props.remove(key)
    model.metadata_props.add(key=METADATA, value=job.header)
    return model


def halve_weights(model: Any) -> Any:
    """Return an ONNX model whose weights are stored in half precision and widened when it is loaded."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = []
    for tensor in list(model.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            continue
        largest = np.finfo(np.float16).max
        half = numpy_helper.to_array(tensor).clip(-largest, largest).astype(np.float16)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
        nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    return _with_first(model, nodes)


def weights_to_int8(model: Any) -> Any:
    """Return an ONNX model whose weights of convolutions and matrix products are int8 with a scale per channel."""
    from onnx import TensorProto, helper, numpy_helper

    axes = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTED and len(node.input) > 1:
            transposed = node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)
            axes[node.input[1]] = 0 if transposed else -1
    nodes, scales = [], []
    for tensor in list(model.graph.initializer):
        if tensor.name not in axes or tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            continue
        values, name = numpy_helper.to_array(tensor), tensor.name
        axis = axes[name] % values.ndim
        others = tuple(number for number in range(values.ndim) if number != axis)
        scale = np.maximum(np.abs(values).max(axis=others), 1e-12).astype(np.float32) / 127
        shape = [-1 if number == axis else 1 for number in range(values.ndim)]
        integers = np.rint(values / scale.reshape(shape)).astype(np.int8)
        tensor.CopyFrom(numpy_helper.from_array(integers, f"{name}_int8"))
        scales.append(numpy_helper.from_array(scale, f"{name}_scale"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=axis))
    model.graph.initializer.extend(scales)
    return _with_first(model, nodes)


def _with_first(model: Any, nodes: list[Any]) -> Any:
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return model


def quantize_onnx(model: Any, job: Job, path: Path) -> Any:
    """Return an ONNX model in int8: static and per channel (QDQ).

    Where that changes too many predictions, the operators that change them most stay in float; where that does not help
    either, only the weights are quantized. On processors without VNNI, products of 8-bit numbers overflow 16 bits:
    weights get 7 bits there.
    """
    import onnx

    before, around = model.SerializeToString(), _around_network(model)
    whole = _static(model, job.calibration(), path, around)
    agreement = _agreement(job, _infer(whole))
    if agreement >= LEAST_AGREEMENT:
        return whole
    ranked = rank_operators(model, job, path)
    for share in FLOAT_SHARES:
        kept = ranked[: max(1, round(share * len(ranked)))]
        mixed = _static(model, job.calibration(), path, [*around, *kept])
        if _agreement(job, _infer(mixed)) >= LEAST_AGREEMENT:
            _note(job, MIXED.format(changed=1 - agreement, kept=len(kept), count=len(ranked), names=", ".join(kept)))
            return mixed
    _note(job, FALLBACK.format(changed=1 - agreement))
    return weights_to_int8(onnx.load_from_string(before))


def rank_operators(model: Any, job: Job, path: Path) -> list[str]:
    """Return the names of the operators with weights, the most sensitive first.

    Sensitivity is the mean over `RANKED_ON` control images of the largest change of a probability when this operator
    alone is quantized; the first are logged.
    """
    pixels, calibration = job.control()[:RANKED_ON], job.calibration()[:RANKED_ON]
    around, float_probabilities = _around_network(model), _infer(model)(pixels)
    operators = [node.name for node in model.graph.node if node.op_type in WEIGHTED and node.name not in around]
    changes = {}
    for name in operators:
        alone = _infer(_static(model, calibration, path, around, [name]))(pixels)
        changes[name] = float(np.abs(alone - float_probabilities).max(1).mean())
    ranked = sorted(operators, key=lambda name: -changes[name])
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
            op_types_to_quantize=[*WEIGHTED, "Add", "Mul", "GlobalAveragePool", "ReduceMean", "MaxPool"],
            nodes_to_quantize=only,
            nodes_to_exclude=excluded,
        )
        return onnx.load(written)
    except Exception as error:  # the quantizer raises anything
        raise RunError(f"ONNX Runtime cannot quantize this network: {str(error).splitlines()[0][:300]}") from error
    finally:
        logging.disable(logging.NOTSET)
        written.unlink(missing_ok=True)


def _infer(model: Any) -> Any:
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


def quantize_openvino(model: Any, job: Job) -> Any:
    """Return an OpenVINO model in int8 by NNCF; where that changes too many predictions, only its weights are."""
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
    dataset = nncf.Dataset([image[None] for image in images])
    quantized = nncf.quantize(model, dataset, **settings)
    compiled = openvino.Core().compile_model(quantized, "CPU")
    agreement = _agreement(job, lambda pixels: compiled(pixels)[0])
    if agreement >= LEAST_AGREEMENT:
        return quantized
    _note(job, FALLBACK.format(changed=1 - agreement))
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)


def _agreement(job: Job, infer: Any) -> float:
    """Return the share of control images on which a model gives the checkpoint's predictions."""
    found = np.concatenate([infer(pixels).argmax(1) for pixels in job.control_batches()])
    return float((found == job.expected).mean())


def _note(job: Job, text: str) -> None:
    job.notes.append(text)
    log.warning("%s.", text)
