"""How many times faster Grad-CAM is here than in the grad-cam package (``pip install grad-cam``), in fp32 on the CPU.

    python benchmarks/gradcam_speed.py --batch 32 --repeats 5

Both explain the predicted class of the same noise, by the same network of torchvision with random weights, and end
with maps of the input's size. They take turns, and each repetition gives one ratio: on a machine that others use too,
only ratios mean something. Each one's first call is not counted. The processor's time is given besides the time of
the clock, since others do not add to it.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from pytorch_grad_cam import GradCAM

from deepbloom.explain.cam import class_activation_maps

LAYERS = {"resnet18": "layer4.1", "efficientnet_b0": "features.8"}


def measure(name: str, batch: int, repeats: int) -> dict[str, object]:
    """Return the ratios of one network."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)().eval()
    inputs = torch.randn(batch, 3, 224, 224)
    layer = LAYERS[name]

    def run_reference() -> torch.Tensor:
        # Its hooks must not be on the network while the other one runs.
        with GradCAM(model=model, target_layers=[model.get_submodule(layer)]) as reference:
            return torch.from_numpy(reference(input_tensor=inputs, targets=None))

    def run() -> torch.Tensor:
        return class_activation_maps(model, inputs, layer).maps

    correlation = min(
        float(torch.corrcoef(torch.stack([mine.flatten(), theirs.flatten()]))[0, 1])
        for mine, theirs in zip(run(), run_reference(), strict=True)
    )
    pairs = []
    for _ in range(repeats):
        pairs.append((_time(run_reference), _time(run)))
        model.zero_grad()
    wall = [theirs[0] / mine[0] for theirs, mine in pairs]
    processor = [theirs[1] / mine[1] for theirs, mine in pairs]
    return {
        "model": name,
        "batch": batch,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "ratio_wall": _summarize(wall),
        "ratio_processor": _summarize(processor),
        "images_per_second": round(batch / min(mine[0] for _, mine in pairs), 2),
        "images_per_second_package": round(batch / min(theirs[0] for theirs, _ in pairs), 2),
        "lowest_correlation": round(correlation, 6),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }


def _time(run: Callable[[], object]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


def _summarize(ratios: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(ratios), 2),
        "lowest": round(min(ratios), 2),
        "highest": round(max(ratios), 2),
    }


def main() -> None:
    """Print one line of JSON per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch chooses")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for name in arguments.models:
        print(json.dumps(measure(name, arguments.batch, arguments.repeats)), flush=True)


if __name__ == "__main__":
    main()
