"""Trained networks whose probabilities another network learns."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from deepbloom.config.schema import as_list
from deepbloom.config.settings import RunConfig
from deepbloom.data.preprocessing import Preprocessing, standardize
from deepbloom.data.sources import ImageSource
from deepbloom.data.split import Split
from deepbloom.engine.checkpoint import Trained, content_digest, read_model
from deepbloom.engine.precision import forward
from deepbloom.engine.trained_data import check_same_data
from deepbloom.errors import ConfigError


@dataclass(frozen=True)
class Teacher:
    """One or several trained networks.

    Attributes
    ----------
    members : tuple of Trained
        On the device of the training.
    digests : tuple of str
        SHA-256 of their weights and headers, which is part of the identity of what they teach.
    preprocessing : Preprocessing
        Of the inputs that `probabilities` takes.
    temperature : float
    """

    members: tuple[Trained, ...]
    digests: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float

    @torch.no_grad()
    def probabilities(self, inputs: Tensor, precision: str) -> Tensor:
        """Return the mean of softmax(z / T), float32 of shape (B, C), for inputs of any size.

        z are calibrated logits: label smoothing leaves a network so modest that its own, divided by T = 2, give the
        right class a tenth of the probability. Each member sees the images at its own size: a network that was trained
        at 224 pixels recognizes little at 64.
        """
        mean, std = (inputs.new_tensor(v).view(3, 1, 1) for v in (self.preprocessing.mean, self.preprocessing.std))
        images = inputs * std + mean
        each = []
        for member in self.members:
            size = member.preprocessing.size
            seen = F.interpolate(images, (size, size), mode="bicubic").clamp_(0, 1)
            logits = forward(member.network, standardize(seen, member.preprocessing), precision)
            each.append((logits / (member.temperature * self.temperature)).softmax(1))
        return torch.stack(each).mean(0)


def read_teacher(
    config: RunConfig,
    source: ImageSource,
    split: Split,
    preprocessing: Preprocessing,
    device: torch.device,
) -> Teacher:
    """Return the networks that ``train.teacher`` names.

    Raises
    ------
    CheckpointError
        A file cannot be read, or its network was trained on other images, classes or another split.
    ConfigError
        A network takes images that were made square in another way.
    """
    members, digests = [], []
    for path in map(str, as_list(config.train.teacher)):
        trained = read_model(path)
        check_same_data(path, trained.header, trained.classes, source, split)
        if trained.preprocessing.fit != config.data.fit:
            raise ConfigError(f"{path} sees images with data.fit={trained.preprocessing.fit}: add it.")
        digests.append(content_digest(trained.network.state_dict(), trained.header))
        trained.network.requires_grad_(False)
        trained.place(device)
        members.append(trained.faster())
    return Teacher(tuple(members), tuple(digests), preprocessing, config.train.teacher_temperature)
