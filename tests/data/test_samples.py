"""``image=sample`` names images that are there on every machine."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepbloom.config.data_settings import DataConfig
from deepbloom.data.folders import find_images
from deepbloom.data.samples import sample_images
from deepbloom.data.sources.synthetic.source import load
from deepbloom.errors import DataError


def test_samples_are_drawn_once_and_photographs_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPBLOOM_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    paths = find_images("sample")
    assert [path.name for path in paths[-2:]] == ["flower.jpg", "china.jpg"]
    drawn = paths[:-2]
    data = load(DataConfig("synthetic", num_classes=len(drawn), images_per_class=3))
    assert [path.stem.replace("_", " ") for path in drawn] == list(data.class_names)
    pixels = [np.asarray(Image.open(path)) for path in drawn]
    assert {image.shape for image in pixels} == {(224, 224, 3)}
    assert not any(np.array_equal(pixels[0], np.asarray(data.read(index))) for index in range(3))
    for path in drawn:
        os.utime(path, (1, 1))
    assert sample_images() == paths
    assert {path.stat().st_mtime for path in drawn} == {1}


def test_a_file_called_sample_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample").touch()
    assert find_images("sample") == [Path("sample")]


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEEPBLOOM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="DEEPBLOOM_CACHE") as caught:
        sample_images()
    assert "output_dir" not in str(caught.value)
