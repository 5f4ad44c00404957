"""What a person would write or use instead of DeepBloom, to measure against: each trains the same network.

    python benchmarks/alternatives.py plain --folder IMAGES --model resnet18_partial --steps 8

``plain``: an ordinary PyTorch loop. ``lightning``: Lightning's Trainer (``pip install lightning``). ``timm``: timm's
loader, augmentation and optimizer around a loop. All: fp32, batches of 32, Adam 3e-4, images decoded and augmented
in the loop, and their own defaults elsewhere. Prints one JSON line: seconds per step, the first one not counted.
"""

import argparse
import json
import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms
from torchvision.datasets import ImageFolder

from deepbloom import recipe
from deepbloom.models.registry import create_model

BATCH = 32
LR = 3e-4


class Clock:
    """Times of the ends of steps."""

    def __init__(self, steps: int) -> None:
        self.steps, self.ends = steps, []

    def step_done(self) -> bool:
        """Note the time; return whether it was the last step."""
        self.ends.append(time.perf_counter())
        return len(self.ends) > self.steps


def ordinary_transform() -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomRotation(20),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )


def train(model: nn.Module, batches: Iterable, optimizer: torch.optim.Optimizer, clock: Clock) -> None:
    while True:
        for images, targets in batches:
            loss = F.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if clock.step_done():
                return


def trained_parameters(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def plain(model: nn.Module, folder: str, clock: Clock) -> None:
    loader = torch.utils.data.DataLoader(ImageFolder(folder, ordinary_transform()), BATCH, shuffle=True)
    train(model, loader, torch.optim.Adam(trained_parameters(model), LR), clock)


def lightning(model: nn.Module, folder: str, clock: Clock) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(trained_parameters(self.model), LR)

        def on_train_batch_end(self, *_: object) -> None:
            clock.step_done()

    trainer = lightning.Trainer(
        max_steps=clock.steps + 1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(ImageFolder(folder, ordinary_transform()), BATCH, shuffle=True))


def timm(model: nn.Module, folder: str, clock: Clock) -> None:
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2

    loader = create_loader(
        create_dataset("", folder), (3, 224, 224), BATCH, is_training=True, use_prefetcher=False, num_workers=0
    )
    train(model, loader, create_optimizer_v2(model, opt="adam", lr=LR), clock)


WAYS = {"plain": plain, "lightning": lightning, "timm": timm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    torch.manual_seed(0)
    settings = recipe(args.model).model
    model = create_model(settings.arch, len(ImageFolder(args.folder).classes), settings.trainable).train()
    clock = Clock(args.steps)
    WAYS[args.way](model, args.folder, clock)
    print(json.dumps({"step_seconds": (clock.ends[args.steps] - clock.ends[0]) / args.steps}))


if __name__ == "__main__":
    main()
