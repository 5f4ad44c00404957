"""How many times faster Grad-CAM is here than in the grad-cam package (``pip install grad-cam``), in fp32 on the CPU.

    python benchmarks/gradcam_speed.py --batch 32 --repeats 5

Both explain the predicted class of the same noise, by the same network of torchvision with random weights, and end
with maps of the input's size, each in a process of its own, set up as its user would have it. They take turns, and each
repetition gives one ratio: on a machine that others use too, only ratios mean something. Each one's first call is not
counted. The processor's time is given besides the time of the clock, since others do not add to it.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import torch
import torchvision
from pytorch_grad_cam import GradCAM

from deepbloom.device import available_cores, device_name, use_cores
from deepbloom.explain.cam import class_activation_maps

LAYERS = {"resnet18": "layer4.1", "efficientnet_b0": "features.8"}


def work(kind: str, name: str, batch: int, threads: int, pipe: Connection) -> None:
    """Compute maps whenever asked to, and send (seconds by the clock, by the processor); the first time, the maps."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)().eval()
    inputs = torch.randn(batch, 3, 224, 224)
    if kind == "deepbloom":
        use_cores(threads)

        def run() -> torch.Tensor:
            return class_activation_maps(model, inputs, LAYERS[name]).maps
    else:
        reference = GradCAM(model=model, target_layers=[model.get_submodule(LAYERS[name])])

        def run() -> torch.Tensor:
            return torch.from_numpy(reference(input_tensor=inputs, targets=None))

    pipe.send(run().numpy())
    while pipe.recv():
        wall, processor = time.perf_counter(), time.process_time()
        run()
        pipe.send((time.perf_counter() - wall, time.process_time() - processor))


def measure(name: str, batch: int, repeats: int, threads: int) -> dict[str, object]:
    """Return the ratios of one network."""
    context = multiprocessing.get_context("spawn")
    pipes, maps = {}, {}
    for kind in ("package", "deepbloom"):
        pipes[kind], other = context.Pipe()
        context.Process(target=work, args=(kind, name, batch, threads, other), daemon=True).start()
        maps[kind] = torch.from_numpy(pipes[kind].recv())
    correlation = min(
        float(torch.corrcoef(torch.stack([mine.flatten(), theirs.flatten()]))[0, 1])
        for mine, theirs in zip(maps["deepbloom"], maps["package"], strict=True)
    )
    pairs = []
    for _ in range(repeats):
        turn = []
        for kind in ("package", "deepbloom"):
            pipes[kind].send(True)
            turn.append(pipes[kind].recv())
        pairs.append(turn)
    for pipe in pipes.values():
        pipe.send(False)
    wall = [theirs[0] / mine[0] for theirs, mine in pairs]
    processor = [theirs[1] / mine[1] for theirs, mine in pairs]
    return {
        "model": name,
        "batch": batch,
        "repeats": repeats,
        "threads": threads,
        "ratio_wall": _summarize(wall),
        "ratio_processor": _summarize(processor),
        "images_per_second": round(batch / min(mine[0] for _, mine in pairs), 2),
        "images_per_second_package": round(batch / min(theirs[0] for theirs, _ in pairs), 2),
        "lowest_correlation": round(correlation, 6),
        "torch": torch.__version__,
        "machine": device_name(torch.device("cpu")),
    }


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
    parser.add_argument("--threads", type=int, default=available_cores())
    arguments = parser.parse_args()
    for name in arguments.models:
        print(json.dumps(measure(name, arguments.batch, arguments.repeats, arguments.threads)), flush=True)


if __name__ == "__main__":
    main()
