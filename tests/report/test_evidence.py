"""What stands beside a test image: similar training images, near-duplicates and heatmaps."""

import json

import numpy as np
import pytest
from PIL import Image
from test_audits import CLEAN

from deepbloom.calibration.out_of_distribution import TrainingImages, normalize
from deepbloom.engine.training_images import write_training_images
from deepbloom.report.evidence import find_evidence, find_nearest
from deepbloom.report.groups import make_groups
from deepbloom.runs.files import write_arrays
from deepbloom.runs.reading import read_run

NAMES = ("train/a", "train/b", "train/c", "train/d")


def write_embeddings(folder, stored_id="x"):
    """Let test image n of predictions.csv be most like the training image n % 4, then like the next ones."""
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]])
    training = TrainingImages(normalize(vectors), np.array([0, 1, 2, 0]), NAMES)
    write_training_images(folder, training, stored_id)
    embeddings = vectors[np.arange(20) % 4].astype(np.float16)
    write_arrays(folder / "probabilities.npz", {"embeddings": embeddings})
    (folder / "model.safetensors").touch()
    (folder / "provenance.json").write_text(json.dumps({"run_id": "x"}))


def test_the_most_similar_training_images_are_those_with_the_smallest_angle(make_run):
    folder = make_run("a", num_images=20)
    write_embeddings(folder)
    run = read_run(folder)
    image_id = run.predictions.image_ids[run.predictions.rows.tolist().index(4)]  # like training image a
    found = find_nearest(run, [image_id, "of no run"])
    assert found.keys() == {image_id}
    assert [name for name, _, _ in found[image_id]] == ["train/a", "train/b", "train/c"]
    assert [target for _, target, _ in found[image_id]] == [0, 1, 2]
    assert [score for _, _, score in found[image_id]] == pytest.approx([1, 0.8, 0], abs=1e-3)


@pytest.mark.parametrize("damage", ["of another run", "no training images", "no embeddings"])
def test_without_embeddings_nothing_is_similar(make_run, damage):
    folder = make_run("a", num_images=20)
    write_embeddings(folder, "y" if damage == "of another run" else "x")
    if damage == "no training images":
        (folder / "training_images.safetensors").unlink()
    if damage == "no embeddings":
        (folder / "probabilities.npz").unlink()
    run = read_run(folder)
    assert find_nearest(run, run.predictions.image_ids) == {}


def test_near_duplicates_and_heatmaps_are_found_by_image(make_run):
    double = ["daisy/0000", "iris/0001"]
    audit = json.loads(json.dumps(CLEAN))
    audit["split"] |= {"examples": [double], "near_duplicates": {"test": 1, "val": 0}}
    folder = make_run("a", num_images=20, audit=audit)
    (folder / "explain" / "heatmaps" / "daisy").mkdir(parents=True)
    Image.new("RGB", (640, 320), "red").save(folder / "explain" / "heatmaps" / "daisy" / "0000.png")
    (group,) = make_groups([read_run(folder)])
    evidence = find_evidence(group, [], 10_000)
    assert evidence.doubles == {"daisy/0000": "iris/0001"}
    assert evidence.others == ["iris/0001"]
    ((name, heatmap),) = evidence.heatmaps["daisy/0000"].items()
    assert (name, heatmap[8:12]) == ("mini_resnet", b"WEBP")
    assert find_evidence(group, [], len(heatmap) - 1).heatmaps == {}


def test_heatmaps_of_each_seed_are_found_unless_they_are_damaged(make_run):
    for seed in range(3):
        path = make_run(f"s{seed}", seed=seed, num_images=20) / "explain" / "heatmaps" / "daisy" / "0000.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (640, 320), "red").save(path)
    path.write_bytes(path.read_bytes()[:60])
    (group,) = make_groups([read_run(path.parents[3].with_name(f"s{seed}")) for seed in range(3)])
    found = find_evidence(group, [], 10_000).heatmaps["daisy/0000"]
    assert list(found) == ["mini_resnet, seed 0", "mini_resnet, seed 1"]
