"""One self-contained page: network, runtime and all in ``index.html``, which makes no request to anywhere."""

import base64
import gzip
import hashlib
import html
import http.client
import io
import json
import re
import tarfile
import urllib.request
from collections.abc import Sequence
from importlib.resources import files as resources
from pathlib import Path
from string import Template
from typing import Any

from deepbloom.calibration.rejection import Rejection
from deepbloom.data.cache_folder import cache_folder
from deepbloom.engine.predictor import Predictor
from deepbloom.errors import DataError
from deepbloom.export.graph import graph_of
from deepbloom.export.opening import open_exported
from deepbloom.export.quantize import finished_onnx
from deepbloom.export.registry import Job, export_format
from deepbloom.runs import files

PAGE = "index.html"
RUNTIME = "onnxruntime-web-1.30.0.tgz"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/{RUNTIME}"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package, as npm publishes it."""
SCRIPT, BINARY = (f"package/dist/{name}" for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"))
TIMEOUT_SECONDS = 60
EXPORT = re.compile(r"export\{([^}]*)\};?\s*(//# sourceMappingURL.*)?\s*$")


@export_format("web", "onnx", "onnxscript", "onnxruntime", extra="onnx")
def write_web(job: Job) -> Sequence[Path]:
    """Write ``model.onnx``, with class activation maps as second output if the head is linear, and ``index.html``."""
    path = job.folder / "model.onnx"
    model = finished_onnx(job, graph_of(job, with_maps=True), path).SerializeToString()
    files.write_bytes(path, model)
    script, binary = read_runtime()
    page = job.folder / PAGE
    files.write_bytes(page, build_page(open_exported(path), model, script, binary).encode("utf-8"))
    return [path, page]


def build_page(predictor: Predictor, model: bytes, script: str, binary: bytes) -> str:
    """Return the page.

    Parameters
    ----------
    predictor : Predictor
        Of the file.
    model : bytes
        An ONNX file.
    script, binary : str, bytes
        ONNX Runtime Web: its JavaScript module and its WebAssembly.
    """
    settings = {
        "classes": predictor.classes,
        "size": predictor.preprocessing.size,
        "interpolation": predictor.preprocessing.interpolation,
        "fit": predictor.preprocessing.fit,
        "padding": predictor.preprocessing.padding,
        "threshold": _threshold(predictor),
    }
    code = f"{_as_global(script)}\n{read_source('preprocess.js')}\n{read_source('page.js')}"
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return Template(read_source("page.html")).substitute(
        title=html.escape(predictor.label),
        digest=digest,
        settings=json.dumps(settings, ensure_ascii=True).replace("<", "\\u003c"),
        model=_packed(model),
        runtime=_packed(binary),
        code=code,
    )


def _threshold(predictor: Predictor) -> float | None:
    """Return the threshold of `TARGET`, or of the highest target that validation can show; None without any."""
    rejection = Rejection.read(predictor.header)
    target = rejection.highest_target() if rejection else None
    return rejection.threshold(target) if rejection and target else None


def read_runtime() -> tuple[str, bytes]:
    """Return ONNX Runtime Web from the cache folder, into which it is downloaded once (33 MB).

    Raises
    ------
    DataError
        It cannot be downloaded, or is not what npm published.
    """
    path = cache_folder() / RUNTIME
    try:
        content = path.read_bytes() if path.is_file() else _download(path)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"format=web needs {URL}, which cannot be downloaded ({error}). Put it at {path}.") from error
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
        raise DataError(f"{path} is not the file that npm published as {URL}. Delete it and start again.")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        script, binary = (_member(archive, name) for name in (SCRIPT, BINARY))
    return script.decode("utf-8"), binary


def _download(path: Path) -> bytes:
    with urllib.request.urlopen(URL, timeout=TIMEOUT_SECONDS) as answer:
        content = bytes(answer.read())
    files.make_folder(path.parent)
    files.write_bytes(path, content)
    return content


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    member: Any = archive.extractfile(name)
    return bytes(member.read())


def _as_global(script: str) -> str:
    """Return a module's source with what it exports as the object ``ort``."""
    (names,) = (found[1] for found in [EXPORT.search(script)] if found)
    pairs = (pair.split(" as ") for pair in names.split(","))
    return EXPORT.sub("const ort={" + ",".join(f"{name}:{local}" for local, name in pairs) + "};", script)


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def read_source(name: str) -> str:
    """Return a file of the page: ``page.html``, ``page.js`` or ``preprocess.js``."""
    return resources("deepbloom.export.web").joinpath(name).read_text(encoding="utf-8")
