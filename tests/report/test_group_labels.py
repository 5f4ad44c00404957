"""The report's label check, where folds test every image, and near-duplicates in two splits side by side."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_audits import CLEAN

from deepbloom.data.label_check import find_folds
from deepbloom.data.sources.imagefolder import ImageFolder
from deepbloom.report import labels, thumbnails
from deepbloom.report.audits import describe_audits
from deepbloom.report.explorer import explorer_data
from deepbloom.report.groups import make_groups
from deepbloom.report.pages import Section, write_page
from deepbloom.runs.reading import read_run

WRONG = 4
"""The image whose label is wrong: its networks are sure of class 2."""


def write_folds(make_run, images: Path, pairs=(), folds=(0, 1)) -> ImageFolder:
    """Write a run for each of two folds, which test every other image and name the ``pairs`` as near-duplicates."""
    source = ImageFolder.create(images)
    for fold in folds:
        rows = np.arange(fold, len(source), 2)
        targets = source.targets[rows]
        probabilities = np.eye(3)[targets] * 0.7 + 0.1
        probabilities[rows == WRONG] = [0.1, 0.1, 0.8]
        predictions = probabilities.argmax(1)
        audit = json.loads(json.dumps(CLEAN))
        named = [[source.image_ids[place] for place in pair] for pair in pairs if pair[0] in rows]
        audit["split"] |= {"examples": named, "near_duplicates": {"test": len(named), "val": 0}}
        folder = make_run(
            f"f{fold}",
            num_images=len(rows),
            class_names=source.class_names,
            split=f"{fold}",
            folds=2,
            fold=fold,
            dataset_fingerprint=source.fingerprint,
            audit=audit,
        )
        with open(folder / "predictions.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_id", "target", "prediction", "confidence"])
            writer.writerows(
                [source.image_ids[row], target, prediction, 0.8]
                for row, target, prediction in zip(rows, targets, predictions, strict=True)
            )
        np.savez(folder / "probabilities.npz", probabilities=probabilities, embeddings=np.eye(3)[targets])
        content = json.loads((folder / "metrics.json").read_text())
        content["test"]["top1_accuracy"] = float((predictions == targets).mean())
        (folder / "metrics.json").write_text(json.dumps(content))
        (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"name": "imagefolder", "root": str(images)}}))
    return source


def group_of(folder: Path, folds=(0, 1)):
    (group,) = make_groups([read_run(folder / "runs" / f"f{fold}") for fold in folds])
    return group


def test_a_group_with_all_folds_has_the_label_check_of_the_command(make_run, images, tmp_path):
    source = write_folds(make_run, images, pairs=[(0, 35), (1, 2), (35, 0)])
    found = labels.check_group(group_of(tmp_path))
    ids = group_of(tmp_path).models[0].predictions[0].image_ids
    assert [ids[place] for place in found.suspects.places] == [source.image_ids[WRONG]]
    assert found.suspects.suggested.tolist() == [2]
    assert [{ids[a], ids[b]} for a, b in found.conflicts] == [{source.image_ids[0], source.image_ids[35]}]
    expected = labels.check(find_folds(tmp_path / "runs", source), ids, found_targets(source, ids), 3)
    assert expected.suspects.scores == pytest.approx(found.suspects.scores)
    assert expected.outliers == found.outliers


def found_targets(source, ids):
    return np.array([source.targets[source.image_ids.index(name)] for name in ids])


@pytest.mark.parametrize("lack", ["a fold", "probabilities"])
def test_without_every_fold_there_is_no_label_check(make_run, images, tmp_path, lack, caplog):
    folds = (0,) if lack == "a fold" else (0, 1)
    write_folds(make_run, images, folds=folds)
    if lack == "probabilities":
        (tmp_path / "runs" / "f1" / "probabilities.npz").unlink()
    group = group_of(tmp_path, folds)
    assert labels.check_group(group) is None
    assert ("no label check" in caplog.text) == (lack == "probabilities")
    assert labels.describe_group_labels(group, thumbnails.TestImages()) == []


def test_near_duplicates_stand_side_by_side_each_pair_once_with_different_labels_first(make_run, images, tmp_path):
    source = write_folds(make_run, images, pairs=[(0, 1), (2, 35), (35, 2)])
    group = group_of(tmp_path)
    (section,) = describe_audits(group, thumbnails.TestImages(), 9)
    rows = section.sections[0].tables[0].rows
    names = [source.image_ids[place] for place in (35, 2, 0, 1)]
    assert [cell.text for row in rows for cell in row[::2]] == names
    assert [cell for row in rows for cell in row[1::2]] == ["lime", "azure", "azure", "azure"]


def test_a_run_without_near_duplicates_shows_none(make_run, images, tmp_path):
    write_folds(make_run, images)
    (section,) = describe_audits(group_of(tmp_path), thumbnails.TestImages(), 9)
    assert section.sections == []


def test_images_of_the_label_check_are_shown_where_there_is_no_room_for_all(make_run, images, tmp_path):
    source = write_folds(make_run, images, pairs=[(0, 35)])
    wanted = [source.image_ids[place] for place in (8, 9)]
    found = thumbnails.load_test_images(group_of(tmp_path), budget=0, wanted=wanted)
    assert found.thumbnails.keys() == {*wanted, source.image_ids[0], source.image_ids[35]}
    assert found.class_names[source.image_ids[35]] == "lime"


def test_a_suspect_opens_its_card(browser, make_run, images, tmp_path):
    source = write_folds(make_run, images, pairs=[(0, 35)])
    group = group_of(tmp_path)
    found = replace(thumbnails.load_test_images(group), labels=labels.check_group(group))
    sections = [Section("Test images", data=explorer_data(group, found)), *labels.describe_group_labels(group, found)]
    page = tmp_path / "page.html"
    write_page(page, "Report", "", [Section("Group", sections=sections)])
    tab = browser.new_page(viewport={"width": 390, "height": 800})
    tab.goto(page.as_uri())
    name = source.image_ids[WRONG]
    section = tab.locator("section:has(> h4:text('Labels that are probably wrong'))")
    assert section.locator("img.photo").count() == 2
    assert tab.locator("section:has(> h4:text('Near-duplicates with different labels')) img.photo").count() == 2
    section.get_by_role("button", name=name).click()
    assert tab.locator("dialog article").count() == 1
    assert name in tab.locator("dialog h4").inner_text()
    tab.close()
