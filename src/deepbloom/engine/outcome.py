"""The end of a run: the network with the weights of its best epoch is calibrated on validation, and tested once."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deepbloom.calibration.out_of_distribution import MAX_STORED, TrainingImages, choose_limit, normalize
from deepbloom.calibration.rejection import Rejection
from deepbloom.calibration.temperature import fit_temperature
from deepbloom.data.dataset import PreparedData, choose_images
from deepbloom.data.leakage import WatchedPixels
from deepbloom.data.pixel_cache import Pixels
from deepbloom.engine.evaluate import last_layer, predict_logits, record_inputs
from deepbloom.engine.freeze_check import check_freeze
from deepbloom.engine.state import TrainState
from deepbloom.engine.training_images import write_training_images
from deepbloom.metrics import softmax
from deepbloom.models.registry import get_architecture
from deepbloom.runs import folder as run_dir


@dataclass(frozen=True)
class Evaluated:
    """What the network says of N images, in fp32 and without augmentation.

    Attributes
    ----------
    logits : ndarray of float32, shape (N, C)
    targets : ndarray of int64, shape (N,)
    embeddings : ndarray of float32, shape (N, F)
        The inputs of the last layer.
    """

    logits: np.ndarray
    targets: np.ndarray
    embeddings: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes
    ----------
    state : TrainState
        Its model has the weights of the best epoch.
    data : PreparedData
    tested : Evaluated
        Of the test images.
    temperature : float
    rejection : Rejection
        Both of the validation images.
    distances : ndarray of float64, shape (N,)
        Of the test images from the training images.
    freeze : dict
        See `check_freeze`.
    test : dict
        How often the run was tested and each test image was read.
    """

    state: TrainState
    data: PreparedData
    tested: Evaluated
    temperature: float
    rejection: Rejection
    distances: np.ndarray
    freeze: dict[str, Any]
    test: dict[str, Any]


def finish(state: TrainState, decoded: Pixels, pixels: WatchedPixels, frozen: dict[str, str]) -> Outcome:
    """Take the weights of the best epoch, calibrate them on validation, publish them, and test them once.

    Parameters
    ----------
    state : TrainState
    decoded : Pixels
    pixels : WatchedPixels
        The same, watched.
    frozen : dict
        See `check_freeze`.

    Raises
    ------
    DivergedError
        Logits are not finite.
    """
    plan, folder = state.plan, state.folder
    state.model.load_state_dict(state.model.state_dict() | state.best)
    validated = _evaluate(state, pixels, plan.split.val, "validation")
    training = _embed_training(state, pixels)
    temperature = fit_temperature(validated.logits, validated.targets)
    distances = training.distances(validated.embeddings)
    correct = validated.logits.argmax(1) == validated.targets
    confidences = softmax(validated.logits, temperature).max(1)
    rejection = Rejection.from_validation(confidences, correct, distances, choose_limit(distances))
    write_training_images(folder, training, plan.run_id)
    state.publish(temperature=temperature, rejection=rejection.as_header())
    times_tested = run_dir.count(folder, "times_tested")
    pixels.testing = True
    tested = _evaluate(state, pixels, plan.split.test, "the test")
    return Outcome(
        state=state,
        data=PreparedData(plan.source, plan.split, decoded, plan.preprocessing),
        tested=tested,
        temperature=temperature,
        rejection=rejection,
        distances=training.distances(tested.embeddings),
        freeze=check_freeze(frozen, state.model, state.optimizer, plan.trainable),
        test={
            "times_tested": times_tested,
            "reads_per_image": list(pixels.test_reads),
            "read_before_testing": bool(run_dir.read_provenance(folder).get("test_read_before_testing", False)),
        },
    )


def _embed_training(state: TrainState, pixels: Pixels) -> TrainingImages:
    plan = state.plan
    stored = PreparedData(plan.source, plan.split, pixels, plan.preprocessing)
    chosen = choose_images(stored, plan.split.train, MAX_STORED, plan.config.seed)
    found = _evaluate(state, pixels, chosen, "the training images")
    names = tuple(plan.source.image_ids[i] for i in chosen)
    half = normalize(found.embeddings).astype(np.float16)  # as the file keeps them
    return TrainingImages(normalize(half), found.targets, names)


def _evaluate(state: TrainState, pixels: Pixels, indices: np.ndarray, where: str) -> Evaluated:
    plan = state.plan
    head = state.model.get_submodule(get_architecture(plan.config.model.arch).head[0])
    eager = torch.compiler.set_stance("force_eager") if plan.config.train.compile else nullcontext()  # for the hook
    with eager, record_inputs(last_layer(head)) as embeddings:
        logits, targets = predict_logits(state.model, plan.evaluation_batches(pixels, indices), plan.device)
    if not np.isfinite(logits).all():
        raise state.diverged(f"logits are not finite in {where}")
    return Evaluated(logits, targets, torch.cat(embeddings).numpy())
