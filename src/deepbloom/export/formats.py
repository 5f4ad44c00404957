"""All export formats."""

from collections.abc import Sequence
from pathlib import Path

from deepbloom.engine.predictor import METADATA
from deepbloom.errors import RunError
from deepbloom.export import executorch, web  # noqa: F401 (each registers its format)
from deepbloom.export.graph import graph_of
from deepbloom.export.header import own_header
from deepbloom.export.quantize import finished_onnx, quantize_openvino
from deepbloom.export.registry import FORMATS, Job, check_format, check_packages, export_format
from deepbloom.runs import files

__all__ = ["FORMATS", "Job", "check_format", "check_packages"]


@export_format("onnx", "onnx", "onnxscript", "onnxruntime", extra="onnx")
def write_onnx(job: Job) -> Sequence[Path]:
    """Write ``model.onnx``: weights, preprocessing, class names and all that the checkpoint says in one file."""
    path = job.folder / "model.onnx"
    files.write_bytes(path, finished_onnx(job, graph_of(job), path).SerializeToString())
    return [path]


@export_format("openvino", "onnx", "onnxscript", "openvino", extra="openvino")
def write_openvino(job: Job) -> Sequence[Path]:
    """Write ``model.xml`` and ``model.bin``."""
    import openvino
    from openvino.passes import ConstantFolding, Manager

    path, source = job.folder / "model.xml", job.folder / "source.onnx"
    graph = graph_of(job)
    files.write_bytes(source, graph.SerializeToString())
    try:
        model = openvino.Core().read_model(source)
        passes = Manager()
        passes.register_pass(ConstantFolding())  # depthwise weights that the graph reshapes would stay in float
        passes.run_passes(model)
        if job.precision == "int8":
            model = quantize_openvino(model, graph, job, path)
        model.set_rt_info(job.header, [METADATA])
        openvino.save_model(model, path, compress_to_fp16=job.precision == "fp16")
        if job.precision == "int8":
            model.set_rt_info(own_header(job, path), [METADATA])
            openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise RunError(f"OpenVINO cannot write {path}: {str(error).strip().splitlines()[0][:300]}") from error
    finally:
        source.unlink(missing_ok=True)
    return [path, path.with_suffix(".bin")]
