"""The network as it leaves the tool: from uint8 RGB to calibrated probabilities."""

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from deepbloom.data.preprocessing import Preprocessing, normalize
from deepbloom.engine.evaluate import last_layer
from deepbloom.errors import RunError
from deepbloom.explain.layers import hooked
from deepbloom.export.registry import Job
from deepbloom.models.registry import get_architecture

OPSET = 20
CLOSE = 1e-4
"""Largest difference, relative to the largest value, of what counts as the mean of the last features."""


class ImageClassifier(nn.Module):
    """Normalization, network, temperature and softmax in one graph.

    Parameters
    ----------
    network : nn.Module
        From float32 (B, 3, S, S) to logits (B, C).
    preprocessing : Preprocessing
    temperature : float
        Divides the logits.
    features : str
        Path of the module whose output, (B, K, h, w), a linear head sees the mean of. If given, the second output is
        the class activation map of each class, (B, C, h, w): Zhou et al. 2016, https://arxiv.org/abs/1512.04150, eq. 2.
    """

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, temperature: float = 1.0, features: str = ""
    ) -> None:
        super().__init__()
        self.network, self.preprocessing, self.temperature = network, preprocessing, temperature
        self.features = features
        self.kept: list[Tensor] = []
        if features:
            network.get_submodule(features).register_forward_hook(self._keep)

    def _keep(self, _: nn.Module, inputs: Any, output: Tensor) -> None:
        self.kept = [output]

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map uint8 (B, S, S, 3) to probabilities (B, C), and, with ``features``, maps (B, C, h, w)."""
        inputs = normalize(images, self.preprocessing).contiguous()  # pooling in channels-last is a gather in ONNX
        probabilities = torch.softmax(self.network(inputs) / self.temperature, dim=1)
        if not self.features:
            return probabilities
        weight = last_layer(self.network).weight[:, :, None, None]  # type: ignore[index]
        return probabilities, nn.functional.conv2d(self.kept.pop(), weight)


def pooled_features(network: nn.Module, arch: str, size: int) -> str:
    """Return the path of the module whose output's mean over positions is what the linear head sees; empty if none is.

    Parameters
    ----------
    network : nn.Module
    arch : str
    size : int
        Side of an image, in pixels.
    """
    head = [network.get_submodule(path) for path in get_architecture(arch).head]
    if len(head) != 1 or sum(isinstance(layer, nn.Linear | nn.Conv2d) for layer in head[0].modules()) != 1:
        return ""
    linear = last_layer(network)
    if not isinstance(linear, nn.Linear):
        return ""
    outputs: list[tuple[str, Tensor]] = []
    seen: list[Tensor] = []

    def keep(path: str) -> Any:
        return lambda _module, _inputs, output: outputs.append((path, output.clone()))

    watched = [(module, keep(path)) for path, module in network.named_modules() if path]
    hook = linear.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode(), hooked(watched):
            network(torch.randn(1, 3, size, size, generator=generator))
    finally:
        hook.remove()
    for path, output in reversed(outputs):
        if output.ndim == 4 and output.shape[1] == linear.in_features and output.shape[2] > 1:
            mean = output.mean((2, 3))
            if torch.allclose(mean, seen[0], rtol=0, atol=CLOSE * float(mean.abs().max())):
                return path
    return ""


def graph_of(job: Job, with_maps: bool = False) -> Any:
    """Return the network as an ONNX model, from uint8 images of its size to calibrated probabilities.

    Raises
    ------
    RunError
        torch cannot express one of its operations in ONNX.
    """
    trained = job.trained
    arch, size = str(trained.header["arch"]), trained.preprocessing.size
    network = trained.network.to("cpu").to(memory_format=torch.contiguous_format)
    features = pooled_features(network, arch, size) if with_maps else ""
    classifier = ImageClassifier(network, trained.preprocessing, trained.temperature, features).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                classifier,
                (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
                input_names=["images"],
                output_names=["probabilities", "maps"] if features else ["probabilities"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=65536)}},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch says in many ways that it cannot
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise RunError(f"The network {arch} cannot be written as ONNX: {reason}") from error
    finally:
        trained.place(torch.device("cpu"))
    assert program is not None
    return program.model_proto
