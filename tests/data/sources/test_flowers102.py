import functools
import hashlib
import http.server
import io
import os
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from deepbloom.config.data_settings import SplitConfig
from deepbloom.data.masks import find_masks
from deepbloom.data.sources import flowers102
from deepbloom.data.sources.flowers102 import Flowers102
from deepbloom.data.split import make_split
from deepbloom.errors import DataError

LABELS = [5, 5, 5, 1, 1, 1, 102, 102, 102]  # of images 1 to 9, from 1 as Oxford counts


def real_data() -> Path:
    given = os.environ.get("DEEPBLOOM_REAL_DATA")
    root = Path(given) if given else Path(__file__).parents[4] / "shared"
    if not (root / "flowers-102").is_dir():
        pytest.skip(f"no Flowers102 images in {root}: set DEEPBLOOM_REAL_DATA")
    return root


def jpeg(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (20, 16), (number * 20, 0, 0)).save(content, "JPEG")
    return content.getvalue()


def tgz(names: list[str]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for number, name in enumerate(names, 1):
            member = tarfile.TarInfo(name)
            member.size = len(jpeg(number))
            archive.addfile(member, io.BytesIO(jpeg(number)))
    return content.getvalue()


IMAGES = [f"jpg/image_{number:05d}.jpg" for number in range(1, 10)]


@pytest.fixture
def oxford(tmp_path, monkeypatch):
    """A folder with Oxford's three files in small, whose MD5s are those expected; nothing can be downloaded."""
    folder = tmp_path / "oxford"
    folder.mkdir()
    savemat(folder / "imagelabels.mat", {"labels": LABELS})
    savemat(folder / "setid.mat", {"trnid": [1, 4, 7], "valid": [8, 2, 5], "tstid": [3, 6, 9]})
    (folder / "102flowers.tgz").write_bytes(tgz(IMAGES))
    expect(monkeypatch, folder)
    monkeypatch.setattr(flowers102, "URL", "http://127.0.0.1:9/")  # nobody listens to "discard"
    return folder


def expect(monkeypatch, folder: Path) -> None:
    md5 = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in flowers102.MD5}
    monkeypatch.setattr(flowers102, "MD5", md5)


@pytest.fixture
def server(oxford, monkeypatch):
    """Serve the folder as Oxford does; the list of paths asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=oxford)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(flowers102, "URL", f"http://127.0.0.1:{running.server_port}/")
        yield asked
        running.shutdown()


@pytest.fixture
def root(tmp_path, oxford):
    """A data.root in which everything lies unpacked."""
    folder = tmp_path / "root" / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for name in ("imagelabels.mat", "setid.mat"):
        (folder / name).write_bytes((oxford / name).read_bytes())
    for number, name in enumerate(IMAGES, 1):
        (folder / name).write_bytes(jpeg(number))
    return folder.parent


def test_images_classes_and_parts_are_oxfords(root):
    source = Flowers102.create(root)
    assert source.image_ids[:2] == ("image_00001.jpg", "image_00002.jpg")
    assert source.targets.tolist() == [label - 1 for label in LABELS]
    assert len(source.class_names) == 102
    assert (source.class_names[0], source.class_names[-1]) == ("pink primrose", "blackberry lily")
    assert {part: indices.tolist() for part, indices in source.predefined.items()} == {
        "train": [0, 3, 6],
        "val": [1, 4, 7],
        "test": [2, 5, 8],
    }
    assert source.notes == ()
    assert source.read(3).getpixel((5, 5))[0] == pytest.approx(80, abs=4)


def test_absent_files_are_downloaded_and_unpacked_once(tmp_path, root, server):
    (tmp_path / "new").mkdir()
    source = Flowers102.create(tmp_path / "new")
    assert server == ["/imagelabels.mat", "/setid.mat", "/102flowers.tgz"]
    assert Flowers102.create(tmp_path / "new").fingerprint == source.fingerprint == Flowers102.create(root).fingerprint
    assert len(server) == 3
    left = sorted(path.name for path in (tmp_path / "new" / "flowers-102").iterdir())
    assert left == [".lock", "102flowers.tgz", "imagelabels.mat", "jpg", "setid.mat"]


def test_starts_at_once_download_and_unpack_once(tmp_path, server):
    (tmp_path / "new").mkdir()
    with ThreadPoolExecutor(3) as executor:
        sources = list(executor.map(lambda _: Flowers102.create(tmp_path / "new"), range(3)))
    assert sorted(server) == ["/102flowers.tgz", "/imagelabels.mat", "/setid.mat"]
    assert {len(source) for source in sources} == {9}


def test_without_a_root_the_per_user_cache_folder_is_used(tmp_path, server, monkeypatch):
    monkeypatch.setenv("DEEPBLOOM_CACHE", str(tmp_path / "cache"))
    source = Flowers102.create()
    assert source.paths[0] == tmp_path / "cache" / "flowers-102" / "jpg" / "image_00001.jpg"


def test_files_put_there_by_hand_need_no_network(tmp_path, oxford):
    (tmp_path / "hand").mkdir()
    oxford.rename(tmp_path / "hand" / "flowers-102")
    assert len(Flowers102.create(tmp_path / "hand")) == 9


def test_without_a_network_the_error_says_what_to_do(tmp_path, oxford):
    (tmp_path / "new").mkdir()
    with pytest.raises(DataError, match=r"102flowers\.tgz.*setid\.mat.*data=synthetic") as caught:
        Flowers102.create(tmp_path / "new")
    assert str(tmp_path / "new" / "flowers-102") in str(caught.value)


def test_a_download_that_is_not_oxfords_is_not_kept(tmp_path, oxford, server):
    (tmp_path / "new").mkdir()
    (oxford / "setid.mat").write_bytes(b"<html>a portal asks you to sign in</html>")
    with pytest.raises(DataError, match="another MD5"):
        Flowers102.create(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new" / "flowers-102").glob("*set*")] == []


def test_a_damaged_list_is_refused_and_not_parsed(root):
    (root / "flowers-102" / "imagelabels.mat").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"imagelabels\.mat is not Oxford's file"):
        Flowers102.create(root)


def test_an_archive_that_reaches_outside_is_refused(tmp_path, oxford, monkeypatch):
    (oxford / "102flowers.tgz").write_bytes(tgz([*IMAGES, "../../escaped.jpg"]))
    expect(monkeypatch, oxford)
    (tmp_path / "hand").mkdir()
    folder = oxford.rename(tmp_path / "hand" / "flowers-102")
    with pytest.raises(DataError, match="Cannot unpack"):
        Flowers102.create(tmp_path / "hand")
    assert not list(tmp_path.rglob("escaped*"))
    assert not (folder / "jpg").exists()


def test_a_half_unpacked_folder_is_an_error_that_counts(root):
    for number in (4, 7, 8, 9):
        (root / "flowers-102" / "jpg" / f"image_{number:05d}.jpg").unlink()
    with pytest.raises(DataError, match=r"4 of 9 .*image_00004\.jpg.* and 1 more.*allow_missing=true\.$"):
        Flowers102.create(root)
    (root / "flowers-102" / "102flowers.tgz").touch()
    with pytest.raises(DataError, match=r"allow_missing=true, or delete that folder: 102flowers\.tgz beside it"):
        Flowers102.create(root)


def test_with_allow_missing_absent_images_and_empty_classes_disappear(root):
    whole = Flowers102.create(root)
    for number in (4, 7, 8, 9):
        (root / "flowers-102" / "jpg" / f"image_{number:05d}.jpg").unlink()
    source = Flowers102.create(root, allow_missing=True)
    assert source.image_ids == tuple(f"image_{number:05d}.jpg" for number in (1, 2, 3, 5, 6))
    assert source.class_names == (whole.class_names[0], whole.class_names[4])
    assert source.targets.tolist() == [1, 1, 1, 0, 0]
    assert {part: indices.tolist() for part, indices in source.predefined.items()} == {
        "train": [0],
        "val": [1, 3],
        "test": [2, 4],
    }
    assert source.read(3).getpixel((5, 5))[0] == pytest.approx(100, abs=4)  # image 5, still its own file
    assert source.fingerprint != whole.fingerprint
    assert "4 of 9" in source.notes[0]
    assert "5 images of 2 classes remain" in source.notes[0]


def test_a_root_that_is_not_there_is_not_filled(tmp_path, server):
    with pytest.raises(DataError, match="is not a folder"):
        Flowers102.create(tmp_path / "mistyped")
    assert server == []


def test_the_folder_itself_given_as_root_is_recognized(root):
    with pytest.raises(DataError, match="Give the folder in which it lies"):
        Flowers102.create(root / "flowers-102")


def test_the_mask_is_what_is_not_blue(root):
    source = Flowers102.create(root)
    assert source.mask(0) is None
    segmentation = np.full((16, 20, 3), (0, 0, 254), np.uint8)
    segmentation[4:12, 8:16] = (200, 120, 40)
    (root / "flowers-102" / "segmim").mkdir()
    Image.fromarray(segmentation).save(root / "flowers-102" / "segmim" / "segmim_00001.jpg", quality=95, subsampling=0)
    expected = np.zeros((16, 20), bool)
    expected[4:12, 8:16] = True
    assert (source.mask(0) == expected).all()
    assert source.mask(1) is None


@pytest.mark.real_data
def test_the_real_lists_give_oxfords_numbers():
    source = Flowers102.create(real_data(), allow_missing=True)
    whole = flowers102.read_lists(Flowers102, real_data() / "flowers-102")
    assert len(whole) == 8189
    assert {part: len(indices) for part, indices in whole.predefined.items()} == {
        "train": 1020,
        "val": 1020,
        "test": 6149,
    }
    assert len(np.unique(np.concatenate(list(whole.predefined.values())))) == 8189
    counts = np.bincount(whole.targets)
    assert (len(counts), counts.min(), counts.max()) == (102, 40, 258)
    split = make_split(whole, SplitConfig())
    assert len(split.train) + len(split.val) + len(split.test) == 8189
    assert len(split.test) == pytest.approx(0.2 * 8189, abs=20)
    assert source.class_names == tuple(whole.class_names[i] for i in sorted({*_classes_there(whole)}))
    assert source.read(0).mode == "RGB"


def _classes_there(whole: Flowers102) -> list[int]:
    return [int(target) for path, target in zip(whole.paths, whole.targets, strict=True) if path.exists()]


def segmentation() -> bytes:
    pixels = np.full((16, 20, 3), (0, 0, 254), np.uint8)
    pixels[:, :10] = (200, 40, 90)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=95)
    return content.getvalue()


def pack_segmentations(path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(segmentation())
            archive.addfile(member, io.BytesIO(segmentation()))


def test_segmentations_are_fetched_once_and_only_on_request(root, oxford, server, monkeypatch):
    pack_segmentations(oxford / flowers102.SEGMENTATIONS, ["segmim/segmim_00002.jpg"])
    digest = hashlib.md5((oxford / flowers102.SEGMENTATIONS).read_bytes()).hexdigest()
    monkeypatch.setattr(flowers102, "SEGMENTATIONS_MD5", digest)
    source = Flowers102.create(root)
    assert source.mask(1) is None
    assert server == []
    masks = find_masks(source, "download")
    assert "not drawn by hand" in masks.origin
    mask = masks.read(1)
    assert mask[:, :8].all()
    assert not mask[:, 12:].any()
    assert masks.read(0) is None
    find_masks(source, "download")
    assert server == [f"/{flowers102.SEGMENTATIONS}"]


def test_segmentations_of_another_checksum_are_refused(root, oxford, server):
    pack_segmentations(oxford / flowers102.SEGMENTATIONS, ["segmim/segmim_00002.jpg"])
    with pytest.raises(DataError, match="another MD5"):
        find_masks(Flowers102.create(root), "download")
    assert not (root / "flowers-102" / "segmim").exists()


def test_segmentations_cannot_be_unpacked_elsewhere(root, oxford, server, monkeypatch):
    pack_segmentations(oxford / flowers102.SEGMENTATIONS, ["segmim/segmim_00001.jpg", "../../escaped.jpg"])
    digest = hashlib.md5((oxford / flowers102.SEGMENTATIONS).read_bytes()).hexdigest()
    monkeypatch.setattr(flowers102, "SEGMENTATIONS_MD5", digest)
    with pytest.raises(DataError, match="Cannot unpack"):
        find_masks(Flowers102.create(root), "download")
    assert not list(root.parent.rglob("escaped.jpg"))
    assert not (root / "flowers-102" / "segmim").exists()
