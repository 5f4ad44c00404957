"""Oxford Flowers102 (Nilsback and Zisserman 2008), in the folder layout of torchvision.

``flowers-102/`` holds ``jpg/image_#####.jpg``, ``imagelabels.mat``, ``setid.mat`` and optionally
``segmim/segmim_#####.jpg``: Oxford's segmentations, with a blue background (see `fetch_segmentations`). A program made
them (Nilsback and Zisserman 2007), and they are wrong in places.
"""

import hashlib
import http.client
import os
import re
import shutil
import tarfile
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from deepbloom.config.data_settings import DataConfig
from deepbloom.data.cache_folder import cache_folder, locked_folder
from deepbloom.data.images import read_image
from deepbloom.data.index import digest_files
from deepbloom.data.sources.files import FileSource, fingerprint_files, leave_out, leave_out_unreadable
from deepbloom.errors import DataError, name_some
from deepbloom.progress import ProgressBar
from deepbloom.runs.files import sync

URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
ARCHIVE = "102flowers.tgz"
MD5 = {
    ARCHIVE: "52808999861908f626f3c1f4e79d11fa",
    "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
    "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
}
SEGMENTATIONS = "102segmentations.tgz"
SEGMENTATIONS_MD5 = "51375996b6c4f367a4b9f4492d7ecef5"
"""From public code that extends torchvision's loader; neither Oxford nor torchvision states it."""
PARTS = {"train": "trnid", "val": "valid", "test": "tstid"}
TIMEOUT_SECONDS = 5
CHUNK_BYTES = 1 << 20
MEMBER = re.compile(r"(jpg/image|segmim/segmim)_\d{5}\.jpg")
MAX_UNPACKED_BYTES = 1_000_000_000
"""Oxford's images take a third of it."""
BACKGROUND = (0, 0, 254)
BACKGROUND_TOLERANCE = 32
"""Largest difference per channel; JPEG blurs the edge between flower and background."""


@dataclass(frozen=True, kw_only=True)
class Flowers102(FileSource):
    """The 8,189 images of 102 flowers. Predefined: 1,020 train, 1,020 val and 6,149 test images."""

    @classmethod
    def create(
        cls, root: str | Path | None = None, allow_missing: bool = False, verify: str = "changed"
    ) -> "Flowers102":
        """Find the images in ``root/flowers-102`` (None: in the per-user cache folder), downloading what is absent.

        With ``allow_missing``, images absent from the folder are left out, which ``notes`` say.

        Raises
        ------
        DataError
            Files are absent and cannot be downloaded, are not Oxford's, or images are absent from a folder that holds
            others.
        """
        folder = _find_folder(root)
        for name in ("imagelabels.mat", "setid.mat"):
            provide(folder, name)
        if not holds(folder, "jpg"):
            provide(folder, ARCHIVE)
            extract(folder, ARCHIVE, "jpg")
        return _leave_out_absent(read_lists(cls, folder), folder, allow_missing, verify)

    def mask(self, index: int) -> np.ndarray | None:
        path = self.paths[index]
        segmentation = path.parent.parent / "segmim" / path.name.replace("image_", "segmim_")
        if not segmentation.exists():
            return None
        image = read_image(segmentation).resize(self.read(index).size, Image.Resampling.NEAREST)
        difference = np.abs(np.asarray(image, dtype=np.int16) - np.array(BACKGROUND, dtype=np.int16))
        result: np.ndarray = difference.max(axis=2) > BACKGROUND_TOLERANCE
        return result


def load(config: DataConfig) -> Flowers102:
    """Return the images in ``data.root`` or the per-user cache folder."""
    found = Flowers102.create(config.root, config.allow_missing, config.verify)
    return leave_out_unreadable(found) if config.allow_missing else found


def is_in(root: str | Path) -> bool:
    """Return whether ``root`` holds lists and images, so that `Flowers102.create` has nothing to download."""
    folder = Path(os.path.expanduser(root)) / "flowers-102"
    return all((folder / name).exists() for name in ("imagelabels.mat", "setid.mat")) and holds(folder, "jpg")


def fetch_segmentations(source: Flowers102) -> None:
    """Download Oxford's segmentations (194 MB) next to the images, unless they are there.

    Raises
    ------
    DataError
        They cannot be downloaded or unpacked, or the archive is not Oxford's.
    """
    folder = source.paths[0].parent.parent
    if not holds(folder, "segmim"):
        provide(folder, SEGMENTATIONS)
        extract(folder, SEGMENTATIONS, "segmim")


def _find_folder(root: str | Path | None) -> Path:
    if root is None:
        try:
            return cache_folder() / "flowers-102"
        except OSError as error:
            raise DataError(f"Nowhere to keep Flowers102: {error.strerror}. Give data.root=FOLDER.") from error
    root = Path(os.path.expanduser(root))
    if not root.is_dir():
        raise DataError(
            f"data.root={str(root)!r} is not a folder. Give the folder that holds, or will hold, flowers-102."
        )
    if (root / "setid.mat").exists():
        raise DataError(f"data.root={str(root)!r} is flowers-102 itself. Give the folder in which it lies.")
    return root / "flowers-102"


def provide(folder: Path, name: str) -> None:
    """Download Oxford's file into the folder unless it is there, and check its MD5."""
    from torchvision.datasets.utils import check_md5  # slow to import

    path, md5 = folder / name, SEGMENTATIONS_MD5 if name == SEGMENTATIONS else MD5[name]
    try:
        if not path.exists():
            with locked_folder(folder):
                if not path.exists():
                    download(name, path, md5)
        if check_md5(path, md5):
            return
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"Flowers102 is not complete in {folder}, and {URL}{name} cannot be put there: {error}. "
            f"Put {', '.join(MD5) if name in MD5 else name} from {URL} into that folder yourself, name another by "
            "data.root=FOLDER, or use data=synthetic."
        ) from error
    raise DataError(f"{path} is not Oxford's file (its MD5 is not {md5}). Delete it; it is downloaded again.")


def download(name: str, path: Path, md5: str) -> None:
    temporary = path.with_name(f".{name}.part")
    request = urllib.request.Request(URL + name, headers={"User-Agent": "deepbloom"})
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer, open(temporary, "wb") as file:
            with ProgressBar(total=answer.length, unit="B", unit_scale=True, desc=name) as bar:
                while chunk := answer.read(CHUNK_BYTES):
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
            sync(file.fileno())
        if digest.hexdigest() != md5:
            raise OSError("what was sent is not Oxford's file (another MD5)")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def holds(folder: Path, inside: str) -> bool:
    return any((folder / inside).glob("*_*.jpg"))


class ImagesOnly:
    """A filter that extracts the images of one folder from an archive, up to `MAX_UNPACKED_BYTES` in all."""

    def __init__(self, inside: str) -> None:
        self.inside, self.total = inside, 0

    def __call__(self, member: tarfile.TarInfo, place: str) -> tarfile.TarInfo | None:
        self.total += member.size
        known = (member.isdir() and member.name == self.inside) or (member.isreg() and MEMBER.fullmatch(member.name))
        if not known or member.name.split("/")[0] != self.inside or self.total > MAX_UNPACKED_BYTES:
            raise tarfile.ReadError(f"{member.name!r} does not belong there, or it is too large")
        return tarfile.data_filter(member, place)


def extract(folder: Path, archive: str, inside: str) -> None:
    """Extract into a temporary folder, then rename it, so that a stopped extraction leaves nothing half done."""
    temporary = folder / ".extracting"
    try:
        with locked_folder(folder):
            if holds(folder, inside):  # another process was faster
                return
            try:
                with tarfile.open(folder / archive, "r:gz") as file:
                    file.extractall(temporary, filter=ImagesOnly(inside))
                os.replace(temporary / inside, folder / inside)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(
            f"Cannot unpack {folder / archive}: {error}. Free space or delete the file, then start again."
        ) from error


def read_lists(cls: type[Flowers102], folder: Path) -> Flowers102:
    """Return all 8,189 images as Oxford lists them, present or not, without digests."""
    from scipy.io import loadmat
    from torchvision.datasets import Flowers102 as OxfordNames  # slow to import

    class_names = tuple(OxfordNames.classes)
    targets = loadmat(folder / "imagelabels.mat", squeeze_me=True)["labels"].astype(np.int64) - 1
    numbers = loadmat(folder / "setid.mat", squeeze_me=True)
    image_ids = tuple(f"image_{number:05d}.jpg" for number in range(1, len(targets) + 1))
    return cls(
        name="flowers102",
        image_ids=image_ids,
        targets=targets,
        class_names=class_names,
        fingerprint="",
        predefined={part: np.sort(numbers[key].astype(np.int64)) - 1 for part, key in PARTS.items()},
        paths=tuple(folder / "jpg" / name for name in image_ids),
        digests=("",) * len(image_ids),
    )


def _leave_out_absent(listed: Flowers102, folder: Path, allow_missing: bool, verify: str) -> Flowers102:
    there = set(os.listdir(folder / "jpg"))
    absent = [index for index, name in enumerate(listed.image_ids) if name not in there]
    if absent and not allow_missing:
        named = name_some([listed.image_ids[index] for index in absent])
        has_archive = (folder / ARCHIVE).is_file()
        again = f", or delete that folder: {ARCHIVE} beside it is then extracted again" if has_archive else ""
        raise DataError(
            f"{len(absent):,} of {len(listed):,} images are absent from {folder / 'jpg'}: {named}. "
            f"Leave them out with data.allow_missing=true{again}."
        )
    digests = digest_files(folder, listed.image_ids, listed.paths, verify)
    class_of_each = (listed.class_names[target] for target in listed.targets)
    fingerprint = fingerprint_files(listed.image_ids, class_of_each, digests)
    hashed = replace(listed, digests=digests, fingerprint=fingerprint)
    if not absent:
        return hashed
    return leave_out(hashed, absent, f"{len(absent):,} of {len(listed):,} images are absent from {folder / 'jpg'}.")
