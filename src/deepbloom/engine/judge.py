"""Whether to accept a prediction, and the training images most like its image."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepbloom.calibration.out_of_distribution import TrainingImages
from deepbloom.calibration.rejection import Rejection, images_needed
from deepbloom.config.command_settings import PredictConfig
from deepbloom.engine.ensemble import Ensemble
from deepbloom.engine.predictor import Predictor
from deepbloom.errors import ConfigError
from deepbloom.metrics import softmax
from deepbloom.runs import folder as run_dir

log = logging.getLogger("deepbloom")

UNSURE, UNLIKE = "unsure", "unlike the training images"
ACCEPT_ALL = -1.0
"""The threshold that no confidence lies below."""


@dataclass(frozen=True)
class Judge:
    """Predicts, and judges predictions as the settings ask.

    Attributes
    ----------
    ensemble : Ensemble
    threshold : float or None
        Predictions of at most this confidence are rejected; None: none are.
    limit : float
        Images farther from the training images are rejected.
    training : TrainingImages or None
        None where they are not known, or not needed.
    evidence : int
        Number of training images to name.
    target : float or None
        The share of accepted predictions that are correct; None where none is shown.
    """

    ensemble: Ensemble
    threshold: float | None = None
    limit: float = math.inf
    training: TrainingImages | None = None
    evidence: int = 0
    target: float | None = None

    @classmethod
    def create(cls, config: PredictConfig, ensemble: Ensemble) -> "Judge":
        """Return what ``reject``, ``target`` and ``evidence`` ask for.

        Raises
        ------
        ConfigError
            The checkpoint or file holds no validation confidences or training images, or its validation split is too
            small for the target.
        """
        if config.reject == "off" and not config.evidence:
            return cls(ensemble)
        if len(ensemble.members) > 1 or config.tta != "none":
            raise ConfigError(
                "reject=auto and evidence are for a single network as it was validated: give one checkpoint, and leave "
                "out tta."
            )
        predictor = ensemble.members[0]
        training = _read_training(ensemble.names[0], predictor)
        if config.evidence and training is None:
            raise ConfigError(
                f"evidence={config.evidence} needs {run_dir.TRAINING_IMAGES} beside the model file, and {config.ckpt} "
                "has none. Give the directory of a run of this version."
            )
        if config.reject == "off":
            return cls(ensemble, training=training, evidence=config.evidence)
        threshold, limit = _choose(config, Rejection.read(predictor.header), training is not None)
        return cls(ensemble, threshold, limit, training, config.evidence)

    @classmethod
    def as_shown(cls, name: str, predictor: Predictor, evidence: int) -> "Judge":
        """Return what rejects as far as the checkpoint ``name`` allows, by the highest target that it can show.

        Raises
        ------
        CheckpointError
            The file of its training images is damaged.
        """
        training = _read_training(name, predictor)
        ensemble = Ensemble((name,), (predictor,))
        rejection = Rejection.read(predictor.header)
        if rejection is None:
            return cls(ensemble, training=training, evidence=evidence)
        alike = rejection if training is None else rejection.of_alike()
        target = alike.highest_target()
        threshold = None if target is None else alike.threshold(target)
        limit = math.inf if training is None else rejection.limit
        return cls(ensemble, ACCEPT_ALL if threshold is None else threshold, limit, training, evidence, target)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of predictions.csv that it adds."""
        return ("reason",) * (self.threshold is not None) + ("evidence",) * bool(self.evidence)

    def judge(self, pixels: Sequence[np.ndarray]) -> list[tuple[np.ndarray, dict[str, Any]]]:
        """Return the logits of each image, and what predictions.json says besides: ``reason`` and ``evidence``.

        ``pixels`` are resized images for each member, uint8 of shape (B, S, S, 3).
        """
        if self.training is None:
            members = zip(self.ensemble.members, pixels, strict=True)
            logits, near = self.ensemble.average([member.logits(images) for member, images in members]), None
        else:
            logits, embeddings = self.ensemble.members[0].embedded_logits(pixels[0])
            near = self.training.nearest(embeddings, max(1, self.evidence))
        facts: list[dict[str, Any]] = [{} for _ in logits]
        if self.threshold is not None:
            confidences = softmax(logits, self.ensemble.temperature).max(1)
            for number, confidence in enumerate(confidences):
                far = near is not None and 1 - float(near[0][number, 0]) > self.limit
                unsure = not confidence > self.threshold
                facts[number]["reason"] = UNLIKE if far else UNSURE if unsure else ""
        if self.evidence and near is not None:
            for number, (similarities, places) in enumerate(zip(*near, strict=True)):
                facts[number]["evidence"] = [
                    self._name(place, similarity) for similarity, place in zip(similarities, places, strict=True)
                ]
        return list(zip(logits, facts, strict=True))

    def _name(self, place: int, similarity: float) -> dict[str, Any]:
        assert self.training is not None
        class_name = self.ensemble.classes[self.training.targets[place]]
        name = self.training.image_ids[place]
        return {"image_id": name, "class_name": class_name, "similarity": round(float(similarity), 6)}


def _read_training(ckpt: str, predictor: Predictor) -> TrainingImages | None:
    if not predictor.gives_embeddings:
        return None
    from deepbloom.engine.training_images import read_training_images  # an exported file is used without torch

    return read_training_images(ckpt, predictor.header)


def _choose(config: PredictConfig, rejection: Rejection | None, knows_training: bool) -> tuple[float, float]:
    """Return the threshold and the limit of ``reject=auto``; say what they mean."""
    if rejection is None:
        raise ConfigError(
            f"reject=auto needs the confidences of validation images, and {config.ckpt} holds none: it is of an "
            "earlier version, or an int8 file exported with image=. Train it again, or export it without image=."
        )
    if knows_training:
        rejection = rejection.of_alike()
    else:
        log.warning(
            "There is no %s beside the model file, so images unlike the training images are not noticed.",
            run_dir.TRAINING_IMAGES,
        )
    threshold = rejection.threshold(config.target)
    if threshold is None:
        best = rejection.reachable()
        raise ConfigError(
            f"target={config.target:g} cannot be shown with {len(rejection.correct)} validation images: it takes at "
            f"least {images_needed(config.target)} that are all correct. "
            + (
                f"The highest that can be shown is target={best:g}."
                if best
                else "No target of 0.5 or more can be shown: leave out reject=auto."
            )
        )
    log.info(
        "Accepting %s: with 95 %% confidence at least %g %% of accepted predictions are correct "
        "for images like those of validation, of which %.1f %% are accepted.",
        "any confidence" if threshold < 0 else f"confidences above {threshold:.4f}",
        100 * config.target,
        100 * rejection.coverage(threshold),
    )
    return threshold, rejection.limit if knows_training else math.inf
