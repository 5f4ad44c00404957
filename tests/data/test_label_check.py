"""The label check finds planted errors, agrees with the definition by hand, and says which folds are missing."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import softmax

from deepbloom.calibration.out_of_distribution import find_outliers
from deepbloom.data.label_check import LabelCheck, Suspects, find_folds, find_suspects, find_typical, read_out_of_fold
from deepbloom.data.near_duplicates import Fingerprints, find_near_duplicates
from deepbloom.data.sources.imagefolder import ImageFolder
from deepbloom.errors import RunError
from deepbloom.report import labels
from deepbloom.runs import folder as run_dir

Run = Callable[..., tuple[int, str, str]]


def test_suspects_by_hand():
    """The thresholds are the means 0.65 and 0.55; image 1 reaches that of class 1 alone, image 3 none."""
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.6, 0.4]])
    found = find_suspects(probabilities, np.array([0, 0, 1, 1]))
    assert found.places.tolist() == [1, 3]
    assert found.suggested.tolist() == [1, 0]
    assert found.scores == pytest.approx([0.6, 0.6])


def test_correct_labels_have_no_suspects():
    targets = np.arange(30) % 3
    assert len(find_suspects(np.eye(3)[targets] * 0.7 + 0.1, targets).places) == 0


def test_a_class_without_images_is_suggested_only_where_it_is_most_probable():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]])
    found = find_suspects(probabilities, np.array([0, 1, 1]))
    assert (found.places.tolist(), found.suggested.tolist()) == ([2], [2])


@pytest.mark.parametrize("seed", [0, 1])
def test_suspects_are_those_of_cleanlab(seed):
    """Those that its confident joint finds off the diagonal, and those predicted as another class."""
    filters = pytest.importorskip("cleanlab.filter")
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 8, 600)
    probabilities = softmax(rng.normal(size=(600, 8)) * 1.5 + 3 * np.eye(8)[truth], axis=1)
    given = np.where(rng.random(600) < 0.05, rng.integers(0, 8, 600), truth)
    found = find_suspects(probabilities, given)
    expected = np.zeros(600, bool)
    for method in ("confident_learning", "predicted_neq_given"):
        expected |= filters.find_label_issues(given, probabilities, filter_by=method, n_jobs=1)
    assert 30 < expected.sum() < 300
    assert sorted(found.places.tolist()) == np.flatnonzero(expected).tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_four_of_five_planted_errors_are_in_the_first_five_percent(seed):
    """A network that is right on about 90 %, as simulated logits, and 3 % of the labels flipped."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 40, 3000)
    probabilities = softmax(rng.normal(size=(3000, 40)) * 1.5 + 6 * np.eye(40)[truth], axis=1)
    flipped = rng.choice(3000, 90, replace=False)
    given = truth.copy()
    given[flipped] = (truth[flipped] + rng.integers(1, 40, 90)) % 40
    found = find_suspects(probabilities, given)
    assert 0.8 < (probabilities.argmax(1) == truth).mean() < 0.97
    assert len(np.intersect1d(found.places[:150], flipped)) >= 0.8 * 90
    assert (np.diff(found.scores) <= 0).all()


def test_near_duplicates_with_different_labels_are_found():
    """Of three copies, two of one class, each has one of the other class; two of a pair of one class have none."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 16, 16, 3), dtype=np.uint8)
    bits = rng.integers(0, 255, (2, 32), dtype=np.uint8)
    which, classes = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    prints = Fingerprints(bits[which], images[which])
    assert find_near_duplicates(prints, prints, (classes, classes)).tolist() == [2, 2, 0, -1, -1]
    assert (find_near_duplicates(prints, prints) >= 0).all()


def test_the_typical_image_of_a_class_is_the_one_with_the_highest_probability_of_its_label():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.9, 0.05, 0.05], [0.7, 0.2, 0.1]])
    assert find_typical(probabilities, np.array([0, 0, 1])).tolist() == [1, 2, -1]


def test_outliers_are_far_from_every_other_image_as_scipy_measures_it():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(40, 6))
    distances = (cdist(embeddings, embeddings, "cosine") + 9 * np.eye(40)).min(1)
    places = np.arange(40)[::-1]
    found = find_outliers([(places, embeddings[places])])
    assert [distance for _, distance in found] == pytest.approx(np.sort(distances)[::-1][: len(found)], abs=1e-5)
    assert [distance for _, distance in found] == pytest.approx([distances[place] for place, _ in found], abs=1e-5)
    alike = (np.array([3, 4]), np.ones((2, 2)))  # another network finds these two alike
    moved = find_outliers([(places, embeddings[places]), alike])
    assert dict(moved).get(3, 0) <= distances[3] / 2 + 1e-5


def test_the_page_shows_suspects_and_pairs_side_by_side_and_escapes_names(images: Path, tmp_path: Path) -> None:
    source = replace(ImageFolder.create(images), class_names=("<b>a", "b", "c"))
    suspects = Suspects(np.array([4, 30]), np.array([2, 0]), np.array([0.9, 0.8]))
    check = LabelCheck(suspects, np.array([0, -1, -1]), [(5, 20)], [])
    labels.write(tmp_path / "labels.html", source, check, thumbnails=True)
    page = (tmp_path / "labels.html").read_text(encoding="utf-8")
    assert "<b>a" not in page
    assert "&lt;b&gt;a" in page
    assert page.count("data:image/webp") == 3 + 2  # two suspects and one typical image; a pair
    assert page.index("0.900") < page.index("0.800") < page.rindex("Near-duplicates with different labels")
    assert "outliers are not known" in page


@pytest.fixture
def folds(trained_run: Path, images: Path, tmp_path: Path) -> Path:
    """Two runs as if each had tested one half of the images; the label of one image is wrong."""
    source = ImageFolder.create(images)
    for fold in range(2):
        folder = tmp_path / "folds" / f"f{fold}"
        shutil.copytree(trained_run, folder)
        rows = np.flatnonzero(np.arange(len(source)) % 2 == fold)[::-1]
        targets = source.targets[rows]
        probabilities = np.eye(3)[targets] * 0.7 + 0.1
        predictions = targets.copy()
        for number, row in enumerate(rows):
            if row == 4:
                probabilities[number], predictions[number] = [0.1, 0.1, 0.8], 2
        with open(folder / run_dir.PREDICTIONS, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_id", "target", "prediction", "confidence"])
            for row, target, prediction in zip(rows, targets, predictions, strict=True):
                writer.writerow([source.image_ids[row], target, prediction, 0.8])
        embeddings = np.eye(4)[targets] + np.eye(4)[3] * 5 * (rows == 7)[:, None]  # image 7 is unlike all others
        np.savez(folder / run_dir.PROBABILITIES, probabilities=probabilities, embeddings=embeddings)
        metrics = json.loads((folder / run_dir.METRICS).read_text())
        metrics |= {"folds": 2, "fold": fold, "dataset_fingerprint": source.fingerprint}
        metrics["test"] |= {"count": len(rows), "top1_accuracy": float((predictions == targets).mean())}
        (folder / run_dir.METRICS).write_text(json.dumps(metrics))
    return tmp_path / "folds"


def test_the_command_writes_ranked_suspects_that_training_takes(
    deepbloom: Run, folds: Path, images: Path, tmp_path: Path
) -> None:
    data = ("data", "data=imagefolder", f"data.root={images}")
    code, out, err = deepbloom(*data, "check=labels", f"runs={folds}", f"output_dir={tmp_path / 'out'}")
    assert code == 0, err
    path = tmp_path / "out" / "label_suspects.csv"
    with open(path, newline="") as file:
        (row,) = csv.DictReader(file)
    name = ImageFolder.create(images).image_ids[4]
    assert row == {"image_id": name, "given": "azure", "suggested": "lime", "score": "0.900000"}
    assert "1 of 36" in out
    assert "0 pairs of near-duplicates with different labels" in out
    with open(tmp_path / "out" / "label_outliers.csv", newline="") as file:
        outliers = list(csv.DictReader(file))
    assert outliers[0]["image_id"] == ImageFolder.create(images).image_ids[7]
    assert [float(outliers[number]["distance"]) for number in (0, 1)] == pytest.approx([1 - 1 / 26**0.5, 0], abs=1e-3)
    page = (tmp_path / "out" / "labels.html").read_text(encoding="utf-8")
    assert name in page
    assert page.count("data:image/webp") == 2 + len(outliers)  # a suspect, an image typical of its suggested class
    code, _, err = deepbloom(
        *data, "check=labels", "thumbnails=false", f"runs={folds}", f"output_dir={tmp_path / 'named'}"
    )
    assert code == 0, err
    page = (tmp_path / "named" / "labels.html").read_text(encoding="utf-8")
    assert name.replace("/", "/<wbr>") in page
    assert "data:image" not in page

    code, out, err = deepbloom(*data, f"data.labels={path}", f"output_dir={tmp_path / 'corrected'}")
    assert code == 0, err
    with open(tmp_path / "corrected" / "counts.csv", newline="") as file:
        assert [row["total"] for row in csv.DictReader(file)] == ["11", "12", "13"]
    code, _, err = deepbloom(*data, f"data.labels={path}", "check=labels", f"runs={folds}")
    assert (code, "no complete run with folds of these images" in err) == (2, True)


def test_missing_folds_are_named(folds: Path, images: Path) -> None:
    source = ImageFolder.create(images)
    probabilities, embedded = read_out_of_fold(find_folds(folds, source), source.image_ids, 3)
    assert probabilities.sum(1) == pytest.approx(np.ones(36))
    assert sorted(place for places, _ in embedded for place in places.tolist()) == list(range(36))
    shutil.rmtree(folds / "f1")
    with pytest.raises(RunError, match="of folds 0 of 2, which test 18 of 36"):
        read_out_of_fold(find_folds(folds, source), source.image_ids, 3)


def test_a_check_without_runs_and_runs_without_a_check_are_refused(deepbloom: Run, images: Path) -> None:
    for wrong in ("runs=outputs", "check=all"):
        assert deepbloom("data", "data=imagefolder", f"data.root={images}", wrong)[0] == 2
