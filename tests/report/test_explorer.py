"""The order of classes, slices, and the test images that the page shows."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image, ImageFilter

from deepbloom.errors import RunError
from deepbloom.report.explorer import order_classes
from deepbloom.report.report import write_report
from deepbloom.report.slices import cut, read_slices
from deepbloom.report.thumbnails import measure


def read_data(page):
    (found,) = re.findall(r'<script type="application/json">(.*?)</script>', page.read_text(encoding="utf-8"))
    return json.loads(found)


def test_classes_that_are_confused_stand_together():
    """Two blocks, {0, 3} and {1, 4}, and a class that nothing is confused with."""
    confusion = np.diag([10, 10, 10, 10, 10])
    confusion[0, 3] = confusion[4, 1] = 6
    order = order_classes(confusion).tolist()
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert abs(order.index(0) - order.index(3)) == abs(order.index(1) - order.index(4)) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_classes_keep_their_order(count):
    assert order_classes(np.eye(count, dtype=int)).tolist() == list(range(count))


def test_numbers_are_cut_into_thirds_and_words_by_value():
    thirds = dict(cut([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, None]))
    assert [chosen.sum() for chosen in thirds.values()] == [2, 2, 2]
    words = dict(cut(["phone", "phone", "mirror", None]))
    assert {label: chosen.tolist() for label, chosen in words.items()} == {
        "phone": [True, True, False, False],
        "mirror": [False, False, True, False],
    }


def test_a_constant_column_is_no_slice():
    assert list(cut([3.0, 3.0, 3.0])) == []


def test_a_file_without_image_ids_is_refused(tmp_path):
    path = tmp_path / "cameras.csv"
    path.write_text("name,camera\na,phone\n")
    with pytest.raises(RunError, match="image_id"):
        read_slices(path)


def test_a_blurred_image_is_less_sharp_and_no_darker():
    rng = np.random.default_rng(0)
    sharp = Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8))
    first, second = measure(sharp), measure(sharp.filter(ImageFilter.GaussianBlur(2)))
    assert first["sharpness"] > 4 * second["sharpness"]
    assert first["brightness"] == pytest.approx(second["brightness"], abs=3)
    assert (first["shorter side"], first["width / height"]) == (64, 1.5)


def test_slices_of_a_file_are_in_the_report(make_run, tmp_path):
    make_run("only", num_images=40, class_names=("daisy", "iris"))
    rows = [f"{('daisy', 'iris')[i % 2]}/{i:04d},{'phone' if i < 30 else 'mirror'}" for i in range(40)]
    (tmp_path / "cameras.csv").write_text("\n".join(["image_id,camera", *rows]))
    report = write_report(tmp_path / "runs", tmp_path / "report", slices=tmp_path / "cameras.csv")
    text = report.markdown.read_text(encoding="utf-8")
    assert re.search(r"\| camera phone \| 30 \| \d+\.\d %", text)
    assert re.search(r"\| camera mirror \| 10 \| \d+\.\d %", text)


def test_the_page_holds_the_test_images_unless_told_otherwise(trained_run, tmp_path):
    page = write_report(trained_run, tmp_path / "with").html
    data = read_data(page)
    assert len(data["images"]) == len(data["thumbnails"]) > 3
    for thumbnail in data["thumbnails"]:
        assert max(Image.open(io.BytesIO(base64.b64decode(thumbnail))).size) <= 96
    assert "Accuracy by slice" in page.read_text(encoding="utf-8")
    without = write_report(trained_run, tmp_path / "without", thumbnails=False).html
    assert set(read_data(without)["thumbnails"]) == {""}
    assert "image/webp" not in re.sub("<script>.*?</script>", "", without.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_other_images_than_the_tested_ones_are_not_shown(trained_run, tmp_path):
    """The same folder and settings, but the run says that its images were others."""
    run = shutil.copytree(trained_run, tmp_path / "runs" / "other")
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"dataset_fingerprint": "0" * 64}))
    data = read_data(write_report(tmp_path / "runs", tmp_path / "report").html)
    assert set(data["thumbnails"]) == {""}
    assert "are not those that other was tested on" in data["problem"]


def test_slices_of_no_test_image_are_refused_and_strange_ones_counted(make_run, tmp_path, caplog):
    run = make_run("a", num_images=20)
    known = (run / "predictions.csv").read_text().splitlines()[1].split(",")[0]
    caplog.set_level("INFO", logger="deepbloom")
    (tmp_path / "some.csv").write_text(f"image_id,camera\n{known},a\nnosuch/1,b\n")
    write_report(tmp_path / "runs", tmp_path / "report", slices=tmp_path / "some.csv")
    assert "1 image not tested in these runs" in caplog.text
    (tmp_path / "none.csv").write_text("image_id,camera\nnosuch/1,a\n")
    with pytest.raises(RunError, match="none of its images is a test image of these runs, such as 'nosuch/1'"):
        write_report(tmp_path / "runs", tmp_path / "report", slices=tmp_path / "none.csv")
