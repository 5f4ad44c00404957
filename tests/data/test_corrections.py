"""``data.labels`` and ``data.exclude`` change the data and their fingerprint, and refuse files that do not fit."""

from pathlib import Path
from typing import Any

import pytest

from deepbloom.config.data_settings import DataConfig
from deepbloom.data.sources import ImageSource, load_source
from deepbloom.errors import DeepBloomError


def load(images: Path, **changes: Any) -> ImageSource:
    return load_source(DataConfig("imagefolder", root=str(images), **changes))


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_labels_and_exclusions_are_part_of_the_fingerprint(images: Path, tmp_path: Path) -> None:
    plain = load(images)
    first, second = plain.image_ids[:2]
    labels = write(tmp_path / "labels.csv", "image_id,given,suggested,score", f"{first},azure,lime,0.9")
    exclude = write(tmp_path / "exclude.csv", "image_id", second)
    corrected = load(images, labels=labels)
    assert corrected.class_names[corrected.targets[0]] == "lime"
    assert (corrected.targets[1:] == plain.targets[1:]).all()
    rest = load(images, exclude=exclude)
    assert rest.image_ids == (first, *plain.image_ids[2:])
    both = load(images, labels=labels, exclude=exclude)
    assert (len(both), both.class_names[both.targets[0]]) == (35, "lime")
    assert len({source.fingerprint for source in (plain, corrected, rest, both)}) == 4
    assert any("1 image is labeled as in" in note for note in both.notes)
    copy = write(tmp_path / "copy.csv", "image_id,suggested", f"{first},lime")
    assert load(images, labels=copy).fingerprint == corrected.fingerprint


@pytest.mark.parametrize(
    ("key", "lines", "said"),
    [
        ("labels", ("image_id,suggested", "nothing.png,lime"), "1 image is named in .*nothing.png"),
        ("labels", ("image_id,suggested", "azure/00.png,pink"), "pink"),
        ("labels", ("image_id,given,suggested", "azure/00.png,lime,crimson"), "is of class 'azure'"),
        ("labels", ("image_id", "azure/00.png"), "suggested"),
        ("labels", ("image_id,suggested", "azure/00.png,lime", "azure/00.png,lime"), "twice"),
        ("exclude", ("image_id", "azure/98.png", "azure/99.png"), "2 images are named in"),
        ("exclude", ("name", "azure/00.png"), "image_id"),
        ("labels", ("image_id;suggested", "azure/00.png;lime"), "semicolons"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    images: Path, tmp_path: Path, key: str, lines: tuple[str, ...], said: str
) -> None:
    with pytest.raises(DeepBloomError, match=said):
        load(images, **{key: write(tmp_path / "file.csv", *lines)})


def test_a_file_that_is_not_there_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DeepBloomError, match=r"gone\.csv"):
        load(images, exclude=str(tmp_path / "gone.csv"))


def test_a_file_saved_by_a_spreadsheet_is_read(images: Path, tmp_path: Path) -> None:
    lines = ("image_id,suggested", "azure/00.png,lime")
    plain = load(images, labels=write(tmp_path / "plain.csv", *lines))
    saved = tmp_path / "saved.csv"
    saved.write_bytes(b"\xef\xbb\xbf" + "\r\n".join((*lines, "", "")).encode())
    assert load(images, labels=str(saved)).fingerprint == plain.fingerprint
