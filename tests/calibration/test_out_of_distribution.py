"""The nearest training images by hand, and the limit that validation sets."""

import numpy as np
import pytest

from deepbloom.calibration.out_of_distribution import TrainingImages, choose_limit, normalize
from deepbloom.errors import CheckpointError

TRAINING = TrainingImages(normalize(np.array([[2, 0], [0, 1], [3, 4]])), np.array([0, 1, 1]), ("a", "b", "c"))


def test_the_most_similar_come_first():
    similarities, places = TRAINING.nearest(np.array([[5.0, 0.0], [0.0, 0.1]]), 2)
    assert places.tolist() == [[0, 2], [1, 2]]
    np.testing.assert_allclose(similarities, [[1, 0.6], [1, 0.8]], atol=1e-6)
    assert TRAINING.nearest(np.ones((1, 2)), 9)[1].shape == (1, 3)


def test_distance_is_that_of_the_nearest_and_of_the_direction_alone():
    assert TRAINING.distances(np.array([[7.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])) == pytest.approx([0, 1, 1], abs=1e-6)


def test_one_percent_of_validation_is_beyond_the_limit():
    distances = np.random.default_rng(0).random(1000)
    assert 5 <= (distances > choose_limit(distances)).sum() <= 10
    assert choose_limit(np.array([0.3])) == 0.3


def test_images_of_another_network_are_refused():
    with pytest.raises(CheckpointError, match="have 2 features each and the network's images 3"):
        TRAINING.distances(np.ones((1, 3)))
