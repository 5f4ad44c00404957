"""What lies in a folder of images: one reader for training, prediction, heatmaps and masks."""

import glob
import logging
import os
import shlex
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepbloom.data.images import SUFFIXES
from deepbloom.errors import DataError, name_some
from deepbloom.runs.files import OUTPUT_MARKER
from deepbloom.runs.folder import CONFIG, METRICS, PROVENANCE

log = logging.getLogger("deepbloom")

SYSTEM_FOLDERS = (
    *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@sharebin", "~snapshot"),
    *("$recycle.bin", "recycler", "system volume information", "lost+found", "__macosx", "__pycache__"),
)
"""Folders in which storage devices and systems keep thumbnails, deleted files and the like; in lower case."""
HIDDEN, SYSTEM, LINK, OUTPUT = "hidden", "with thumbnails or trash", "linked to what is read anyway", "from DeepBloom"
BESIDE = "beside the class folders"
SAMPLE = "sample"
"""Names the images of `data.samples`."""
NO_IMAGES = "without images"


ARCHIVES = {".zip": "zipfile", ".tar": "tarfile", ".tgz": "tarfile", ".tar.gz": "tarfile", ".tar.xz": "tarfile"}
"""Endings of archives, and the module of Python that unpacks each."""


class Ignored(defaultdict[str, list[str]]):
    """What was not read in a folder: paths by reason."""

    def __init__(self) -> None:
        super().__init__(list)

    def add(self, reason: str, paths: Sequence[str]) -> None:
        if paths:
            self[reason] += paths

    def __str__(self) -> str:
        return ", ".join(f"{len(paths):,} {reason} ({name_some(paths)})" for reason, paths in sorted(self.items()))


@dataclass
class Folder:
    """A folder, the images directly in it, and the folders in it, both sorted by name."""

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    def all_images(self) -> list[Path]:
        """Return the images in it and in all folders below, in no particular order."""
        return self.images + [path for folder in self.folders for path in folder.all_images()]


class _Places:
    """Decides which links are followed: those to a place that is not read otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self._read: set[Path] = set()
        self._above = {self.root, *self.root.parents}

    def claim(self, link: Path) -> bool:
        """Return whether a linked folder is followed; from then on it counts as read."""
        target = Path(os.path.realpath(link))
        if target in self._above or self._reads(target):
            return False
        self._read.add(target)
        self._above |= {target, *target.parents}
        return True

    def reads_image(self, target: Path) -> bool:
        """Return whether a linked file is read where it lies. A broken link is not: its image is absent."""
        return target.suffix.lower() in SUFFIXES and self._reads(target) and target.exists()

    def _reads(self, target: Path) -> bool:
        if target.is_relative_to(self.root) and not any(map(_reason, target.relative_to(self.root).parts)):
            return True
        return not self._read.isdisjoint((target, *target.parents))


def _reason(name: str) -> str:
    """Return why nothing of this name is read; empty if it is read."""
    return HIDDEN if name.startswith(".") else SYSTEM if name.casefold() in SYSTEM_FOLDERS else ""


def read_folder(root: Path) -> tuple[Folder, Ignored]:
    """Find all images below ``root``: files with one of `SUFFIXES`.

    Hidden files and folders, `SYSTEM_FOLDERS`, DeepBloom's own output, and links to a folder that holds ``root`` or to
    anything that is read anyway are ignored. Other links are followed, folders nearer to the root first.

    Raises
    ------
    DataError
        A folder cannot be listed.
    """
    top, ignored, places = Folder(root), Ignored(), _Places(root)
    linked: list[tuple[Folder, Path]] = []
    found, waiting, output = [top], deque([top]), set[int]()
    while waiting:
        folder = waiting.popleft()
        entries = _list(folder.path)
        if folder is not top and _is_output({entry.name for entry in entries}):
            ignored[OUTPUT].append(_below(root, folder.path))
            output.add(id(folder))
            continue
        for entry in entries:
            path, is_link = folder.path / entry.name, _is_link(entry)
            suffix = os.path.splitext(entry.name)[1].lower()
            # A link that is called like an image is one. A link may lead round in a circle.
            is_folder = (suffix not in SUFFIXES and os.path.isdir(path)) if is_link else entry.is_dir()
            if reason := _reason(entry.name):
                ignored[reason].append(_below(root, path))
            elif is_folder and is_link and not places.claim(path):
                ignored[LINK].append(_below(root, path))
            elif is_folder:
                folder.folders.append(Folder(path))
            elif suffix not in SUFFIXES:
                ignored[suffix or "without a suffix"].append(_below(root, path))
            elif is_link:
                linked.append((folder, path))
            else:
                folder.images.append(path)
        found += folder.folders
        waiting += folder.folders
    for folder, path in linked:  # only now is it known what is read
        if places.reads_image(Path(os.path.realpath(path))):
            ignored[LINK].append(_below(root, path))
        else:
            folder.images.append(path)
    for folder in reversed(found):
        _settle(folder, output)
    return top, ignored


def _settle(folder: Folder, output: set[int]) -> None:
    """Take out folders of output, given by ``id``: one that holds nothing else is output too. Sort the images.

    An empty folder that is called like an image is an image that cannot be read.
    """
    inner = [inner for inner in folder.folders if id(inner) not in output]
    if len(inner) < len(folder.folders) and not folder.images and not any(below.all_images() for below in inner):
        output.add(id(folder))
    odd = [below.path for below in inner if below.path.suffix.lower() in SUFFIXES and not below.all_images()]
    folder.folders = [below for below in inner if below.path not in odd]
    folder.images = sorted(folder.images + odd)


def _list(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"Cannot list {folder}: {error.strerror}.") from error


def _is_link(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() or (hasattr(entry, "is_junction") and entry.is_junction())  # Windows, from Python 3.12


def _is_output(names: set[str]) -> bool:
    return OUTPUT_MARKER in names or (CONFIG in names and not names.isdisjoint((PROVENANCE, METRICS)))


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def find_images(image: str | Sequence[str]) -> list[Path]:
    """Return the files that ``image`` names: a file, a folder, a pattern, a list of these, or ``sample``.

    Files named one by one are taken whatever their suffix. Folders are read as `read_folder` says, and what is ignored
    in a folder that is named is logged.

    Raises
    ------
    DataError
        A name matches nothing, or a folder holds no image.
    """
    names = [image] if isinstance(image, str) else list(image)
    found: list[Path] = []
    for name in map(str, names):
        path = Path(os.path.expanduser(name))
        refuse_archive("image", path)
        if path.is_dir():
            found += _find_in_folder(name, path)
        elif path.exists() or path.is_symlink():
            found.append(path)
        elif name == SAMPLE:
            from deepbloom.data.samples import ATTRIBUTION, sample_images

            found += sample_images()
            log.info("%s", ATTRIBUTION)
        else:
            there = next(folder for folder in path.parents if folder.is_dir())  # brackets in its name are no pattern
            pattern = str(path.relative_to(there))
            matches = sorted(there / match for match in glob.glob(pattern, root_dir=there, recursive=True))
            if not matches:
                raise DataError(
                    f"image={name}: there is no such file, folder or pattern. For several write 'image=[a.jpg,b.jpg]'."
                )
            for match in matches:
                if not any(part.casefold() in SYSTEM_FOLDERS and part not in path.parts for part in match.parts):
                    found += sorted(read_folder(match)[0].all_images()) if match.is_dir() else [match]
    return list(dict.fromkeys(found))


def refuse_archive(key: str, path: Path) -> None:
    """Raise `DataError` if ``path`` is an archive; the message says how to unpack it."""
    kind = next((kind for ending, kind in ARCHIVES.items() if path.name.lower().endswith(ending)), None)
    if kind is None or not path.is_file():
        return
    folder = path.with_name(path.name.partition(".")[0] or "unpacked")
    command = shlex.join(["python", "-m", kind, "-e", str(path), str(folder)])
    raise DataError(f"{key}={path} is an archive. Unpack it ({command}), then give {key}={folder}.")


def _find_in_folder(name: str, path: Path) -> list[Path]:
    folder, ignored = read_folder(path)
    images = sorted(folder.all_images())
    left_out = f" Ignored: {ignored}." if ignored else ""
    if not images:
        raise DataError(f"image={name} is a folder without images. Looked for: {', '.join(SUFFIXES)}.{left_out}")
    if ignored:
        log.info("%s: %d images.%s", path, len(images), left_out)
    return images
