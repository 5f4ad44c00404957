"""A run is called by its ``name=``, which changes no result, and its images by the name of their folder."""

import json

import pytest

from deepbloom.config.data_settings import DataConfig


@pytest.mark.parametrize(
    ("settings", "title"),
    [
        ({"name": "imagefolder", "root": "photos/My Garden/"}, "My Garden"),
        ({"name": "imagefolder", "root": "/"}, "imagefolder"),
        ({"name": "flowers102", "root": "photos"}, "flowers102"),
        ({"name": "synthetic"}, "synthetic"),
    ],
)
def test_images_are_called_by_the_name_of_their_folder(settings, title):
    assert DataConfig(**settings).title == title


def test_a_name_changes_no_identity_and_is_listed(deepbloom, tmp_path):
    data = ("model=scratch_cnn", "data=synthetic", "data.num_classes=2", "data.images_per_class=10", "train.epochs=1")
    found = {}
    for folder, name in (("a", "warm start, 2"), ("b", "")):
        code, _, errors = deepbloom("train", *data, f"name={name}", f"output_dir={tmp_path / 'runs' / folder}")
        assert code == 0, errors
        found[folder] = json.loads((tmp_path / "runs" / folder / "metrics.json").read_text())
    assert found["a"]["run_id"] == found["b"]["run_id"]
    assert (found["a"]["name"], found["b"]["name"]) == ("warm start, 2", "")
    _, listed, _ = deepbloom("runs", f"runs={tmp_path / 'runs'}", "sort=name")
    assert "warm start, 2" in listed.splitlines()[1]
