"""ONNX models in fewer bytes: weights in half precision or as 8-bit integers, and nothing that no runtime reads."""

from typing import Any

import numpy as np

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operators of ONNX that have weights."""
SMALL = 256
"""Tensors with fewer elements keep their precision."""


def remove_unread(model: Any) -> None:
    """Remove what no runtime reads: traces of the Python source, shapes in between, zero points that are the default.

    A zero point stays where ONNX Runtime fuses no operator without it: at matrix products.
    """
    from onnx import numpy_helper

    del model.metadata_props[:], model.graph.value_info[:]
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    in_convolutions = {name for node in model.graph.node if node.op_type == "Conv" for name in node.input[1:]}
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        if node.op_type == "DequantizeLinear" and node.output[0] in in_convolutions and len(node.input) == 3:
            zero_point = tensors.get(node.input[2])
            if zero_point is not None and not numpy_helper.to_array(zero_point).any():
                del node.input[2]
    read = {name for node in model.graph.node for name in node.input}
    for tensor in list(model.graph.initializer):
        if tensor.name not in read:
            model.graph.initializer.remove(tensor)


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
