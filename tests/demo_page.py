"""Fixtures of the demo: two small networks behind a server in a thread of this process."""

import asyncio
import http.client
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepbloom.calibration.out_of_distribution import TrainingImages, normalize
from deepbloom.calibration.rejection import Rejection
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.engine.checkpoint import model_header, write_tensors
from deepbloom.engine.training_images import write_training_images
from deepbloom.models.registry import create_model

SCRIPT = "</script><script>window.ran = true</script>"
CLASSES = (("iris", "rose", SCRIPT), ("rose", "tulip", "a", "b", "c", "d"))
SLOW_SECONDS = 1.5


NOTHING_IS_ALIKE = Rejection(np.array([0.9]), np.array([True]), np.array([False]), limit=0.0)


def training_images() -> TrainingImages:
    """Return what the second network knows of three training images, which lie nowhere."""
    embeddings = np.random.default_rng(0).normal(size=(3, 592))
    return TrainingImages(normalize(embeddings), np.array([0, 1, 1]), ("x/1.png", "x/2.png", "x/3.png"))


def image_bytes(seed: int = 0, kind: str = "png") -> bytes:
    """Return a file of a small noisy image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@dataclass(frozen=True)
class Page:
    """A served page.

    Attributes
    ----------
    port : int
    checkpoints : list of Path
    """

    port: int
    checkpoints: list[Path]

    def request(
        self, path: str = "/predict", body: bytes | None = None, method: str = "POST", **headers: str
    ) -> tuple[int, bytes]:
        """Send one request and return status and body. Names in ``headers`` have ``_`` instead of ``-``."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if method == "POST":
            given.setdefault("content-type", "application/octet-stream")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, given)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def predict(self, content: bytes, query: str = "") -> dict:
        """Return the result for an image."""
        status, body = self.request(f"/predict{query}", content)
        assert status == 200, body
        return json.loads(body)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Run directories of two untrained networks that know the `CLASSES`. The second accepts no image."""
    folders = []
    for seed, classes in enumerate(CLASSES):
        torch.manual_seed(seed)
        network = create_model("scratch_cnn", len(classes))
        folder = tmp_path_factory.mktemp(f"run{seed}")
        header = model_header("scratch_cnn", classes, Preprocessing(size=32))
        if seed:
            header |= {"run_id": "second", "rejection": NOTHING_IS_ALIKE.as_header()}
            write_training_images(folder, training_images(), "second")
        write_tensors(folder / "model.safetensors", network.state_dict(), header)
        folders.append(folder)
    return folders


@pytest.fixture(scope="session")
def page(checkpoints: list[Path]) -> Iterator[Page]:
    """The page with both networks. An upload may take `SLOW_SECONDS`."""
    pytest.importorskip("uvicorn", reason="the extra 'demo' is not installed")
    from deepbloom.demo.app import build_app
    from deepbloom.demo.predictions import load_networks
    from deepbloom.demo.server import Server, listen
    from deepbloom.demo.uploads import UploadQueue

    listening = listen(0)
    port = listening.getsockname()[1]
    networks = load_networks(list(map(str, checkpoints)), "cpu")
    server = Server(build_app(networks, port, UploadQueue(SLOW_SECONDS)))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.05)
    yield Page(port, checkpoints)
    server.should_exit = True
    thread.join(20)
    listening.close()


@pytest.fixture
def image() -> bytes:
    """A PNG file."""
    return image_bytes()


@pytest.fixture
def images_bytes() -> list[bytes]:
    """Sixteen different PNG files."""
    return [image_bytes(seed) for seed in range(16)]
