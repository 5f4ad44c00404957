"""The mean of probabilities: of several predictors, or of images and their mirror images. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepbloom.engine.predictor import Predictor
from deepbloom.errors import CheckpointError
from deepbloom.metrics import softmax


@dataclass(frozen=True)
class Mirrored(Predictor):
    """A predictor that sees each image and its mirror image; its probabilities are the mean of both."""

    inner: Predictor

    @property
    def temperature(self) -> float:
        """1, as `logits` give calibrated probabilities already."""
        return 1.0

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return the logarithms of the probabilities, float32 of shape (B, C), for uint8 of shape (B, S, S, 3)."""
        mirrored = np.ascontiguousarray(pixels[:, :, ::-1])
        return _log_mean([self.inner.probabilities(images) for images in (pixels, mirrored)])


@dataclass(frozen=True)
class Ensemble:
    """One or several predictors of the same classes."""

    names: tuple[str, ...]
    """The checkpoints, as given."""
    members: tuple[Predictor, ...]

    def __post_init__(self) -> None:
        """Raise `CheckpointError` unless all members tell the same classes apart."""
        for name, member in zip(self.names, self.members, strict=True):
            if member.classes != self.classes:
                raise CheckpointError(
                    f"{name} does not tell the same classes apart as {self.names[0]}, so their probabilities cannot be "
                    "averaged. Give runs on the same classes."
                )

    @property
    def classes(self) -> tuple[str, ...]:
        return self.members[0].classes

    @property
    def temperature(self) -> float:
        """What divides the logits of `average`: that of a single member, or 1."""
        return self.members[0].temperature if len(self.members) == 1 else 1.0

    @property
    def label(self) -> str:
        """The name of the model, or of all models."""
        labels = " + ".join(member.label for member in self.members)
        return labels if len(self.members) == 1 else f"ensemble of {labels}"

    def average(self, logits: Sequence[np.ndarray]) -> np.ndarray:
        """Return the logits of the ensemble, (N, C), from those of each member: the log of the mean probabilities."""
        if len(self.members) == 1:
            return logits[0]
        members = zip(self.members, logits, strict=True)
        return _log_mean([softmax(given, member.temperature) for member, given in members])

    def check_same_split(self) -> None:
        """Raise `CheckpointError` unless all members were trained on the same split of the same images."""
        for key, what in (("dataset_fingerprint", "images"), ("split_fingerprint", "splits")):
            for name, member in zip(self.names, self.members, strict=True):
                if member.header.get(key) != self.members[0].header.get(key):
                    raise CheckpointError(
                        f"{name} was trained with other {what} than {self.names[0]}, so one may have trained on what "
                        "tests the other. Give runs with the same data and data.split."
                    )


def _log_mean(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    mean = np.mean(probabilities, axis=0)
    logits: np.ndarray = np.log(np.maximum(mean, np.finfo(np.float64).tiny)).astype(np.float32)
    return logits
