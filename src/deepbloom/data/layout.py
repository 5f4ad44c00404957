"""What the folders of a folder of images mean: classes, or a predefined split with the classes in each part."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from deepbloom.data.folders import BESIDE, NO_IMAGES, Folder, Ignored
from deepbloom.errors import DataError, name_some

WORDS = {
    "train": "train|training|trn",
    "val": "val|valid|validation|validate|validating|dev|devel|development",
    "test": "test|testing|tst|holdout|heldout",
    "eval": "eval|evaluation|evaluate|evaluating",
}
FILLERS = "sets?|data|datasets?|images?|imgs?|photos?|pictures?|samples?|files?|folder|dir|split|subset|part|[0-9]+"
SPLIT_NAME = re.compile(
    rf"(?:{FILLERS})*(?:" + "|".join(f"(?P<{part}>{words})" for part, words in WORDS.items()) + rf")(?:{FILLERS})*"
)

Parts = dict[str, Folder]
Classes = dict[str, list[Path]]


def find_parts(root: Folder, ignored: Ignored) -> Parts:
    """Return the folder of each part of a predefined split, or {"": root} if the folders in ``root`` are the classes.

    Raises
    ------
    DataError
        It can be read in two ways, or a part of a split has no class folders.
    """
    folders = [folder for folder in root.folders if folder.all_images()]
    named = name_parts([folder.name for folder in folders])
    others = [folder.name for folder in folders if folder.name not in named]
    flat = [folder.name for folder in folders if folder.name in named and not _has_classes(folder)]
    if (others and (len(named) < 2 or "train" not in named.values())) or len(folders) == len(flat) < 2:
        _refuse_groups(root)
        return {"": root}
    if others or max(Counter(named.values()).values()) > 1:
        beside = f" beside other folders ({name_some(others)})" if others else ""
        said = ", ".join(f"{name} for {part}" for name, part in named.items())
        raise DataError(
            f"{root.path} can be read in two ways. If it holds a split ({said}){beside}, keep one folder for each of "
            "train, val and test there, and nothing else. If these are classes, rename those that sound like splits."
        )
    if flat:
        _refuse_unlabeled(root, flat, [name for name in named if name not in flat])
    ignored.add(NO_IMAGES, [folder.name for folder in root.folders if folder not in folders])
    ignored.add(BESIDE, [path.name for path in root.images])
    parts = {named[folder.name]: _unwrapped(folder) for folder in folders}
    for folder in parts.values():
        _refuse_groups(folder)
    return parts


def name_parts(names: Sequence[str]) -> dict[str, str]:
    """Return which part of a split each folder name stands for, without those that stand for none.

    Case, separators, words such as "set" or "images", numbers, and words that all names begin or end with do not
    matter. "Eval" is the test split where there is no other, and otherwise the validation split.
    """
    words = {name: re.findall(r"[^\W_]+", unicodedata.normalize("NFC", name).casefold()) for name in names}
    first = _shared_words(list(words.values()))
    last = _shared_words([own[first:][::-1] for own in words.values()])
    found = {}
    for name, own in words.items():
        match = SPLIT_NAME.fullmatch("".join(own)) or SPLIT_NAME.fullmatch("".join(own[first : len(own) - last]))
        if match:
            found[name] = str(match.lastgroup)
    evaluation = "val" if "test" in found.values() else "test"
    return {name: evaluation if part == "eval" else part for name, part in found.items()}


def _shared_words(names: Sequence[Sequence[str]]) -> int:
    """Return the number of words that all of several names begin with, each having more than these."""
    if len(names) < 2:
        return 0
    longest = min(map(len, names)) - 1
    return next((i for i in range(longest) if len({name[i] for name in names}) > 1), max(0, longest))


def _has_classes(folder: Folder) -> bool:
    return any(inner.all_images() for inner in _unwrapped(folder).folders)


def _unwrapped(folder: Folder) -> Folder:
    """Return the folder of the same name in a folder that holds nothing else, as archives are often unpacked."""
    while not folder.images and len(folder.folders) == 1 and folder.folders[0].name == folder.name:
        folder = folder.folders[0]
    return folder


def _refuse_unlabeled(root: Folder, flat: Sequence[str], labeled: Sequence[str]) -> None:
    holds = f"{', '.join(flat)} in {root.path} hold{'s' * (len(flat) == 1)} images but no class folders"
    if labeled:
        raise DataError(
            f"{holds}, so the classes of these images are unknown. Train on the others alone, and let DeepBloom split "
            f"them: data.root={root.path / labeled[0]}; deepbloom predict image={root.path / flat[0]} classifies these."
        )
    raise DataError(
        f"{holds}, and the names sound like splits. Sort the images into class folders, such as {flat[0]}/CLASS/; if "
        "these are the classes themselves, rename the folders."
    )


def _refuse_groups(root: Folder) -> None:
    """Raise `DataError` where the folders in ``root`` look like groups of classes, or like splits of other names."""
    branches = {folder.name: _branches(folder) for folder in root.folders}
    groups = [name for name, (own, inner) in branches.items() if not own and len(inner) > 1]
    if not groups:
        counts = Counter(name for _, inner in branches.values() for name in inner)
        repeated = {name for name, count in counts.items() if count > 1}
        groups = [
            name
            for name, (own, inner) in branches.items()
            if len(repeated & set(inner)) > 1 and sum(inner.values()) > own
        ]
    if not groups:
        return
    if len(root.folders) == 1:
        raise DataError(
            f"{root.path} holds one folder, {groups[0]}, and the images lie in folders in it. Give its path: "
            f"data.root={root.path / groups[0]}."
        )
    inner = list(dict.fromkeys(name for group in groups for name in branches[group][1]))
    if len(name_parts(inner)) > 1:
        fix = (
            f"Put the splits above the classes, as in {inner[0]}/{groups[0]}/, or move the images up into the classes."
        )
    else:
        fix = (
            f"If {groups[0]} is a class, move its images up into it. If {inner[0]} is a class, name the folders above "
            f"it train, val and test if they are splits, or else move the classes into {root.path}, or take one group: "
            f"data.root={root.path / groups[0]}."
        )
    raise DataError(
        f"{root.path} can be read in two ways: the images of {name_some(groups)} lie in folders of their own "
        f"({name_some(inner)}). {fix}"
    )


def _branches(folder: Folder) -> tuple[int, dict[str, int]]:
    """Return the number of images that lie in a folder itself, and in each folder in it that holds some."""
    inner = {inner.name: len(inner.all_images()) for inner in folder.folders}
    inner = {name: count for name, count in inner.items() if count}
    if not folder.images and len(inner) == 1:  # a mere detour
        return _branches(next(below for below in folder.folders if below.name in inner))
    return len(folder.images), inner


def find_classes(root: Path, parts: Parts, ignored: Ignored, allow_missing: bool) -> dict[str, Classes]:
    """Return the images of each class, by part. With ``allow_missing``, folders without images are left out.

    Raises
    ------
    DataError
        Names of classes are hardly distinct, a class folder holds no images, parts differ in classes, or there are
        fewer than two classes.
    """
    _refuse_similar(root, {inner.name for folder in parts.values() for inner in folder.folders})
    found: dict[str, Classes] = {}
    for part, folder in parts.items():
        classes = {inner.name: inner.all_images() for inner in folder.folders}
        found[part] = {name: images for name, images in classes.items() if images}
        empty = [name for name in classes if name not in found[part]]
        ignored.add(BESIDE, [path.relative_to(root).as_posix() for path in folder.images])
        if empty and not allow_missing:
            raise DataError(
                f"{len(empty)} of {len(classes)} class folders in {folder.path} hold no image ({name_some(empty)})"
                f"{f'; ignored: {ignored}' if ignored else ''}. Put images there, remove the folder, or leave it out: "
                "data.allow_missing=true."
            )
        ignored.add(NO_IMAGES, [(folder.path / name).relative_to(root).as_posix() for name in empty])
    _check_classes(root, found, allow_missing)
    return found


def _refuse_similar(root: Path, names: Iterable[str]) -> None:
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    for same in alike.values():
        if len(same) > 1:
            raise DataError(
                f"{len(same)} class folders in {root} have names that read alike: {', '.join(map(ascii, same))}. They "
                "differ only in case, spaces or Unicode form. Move their images into one folder, or rename one."
            )


def _check_classes(root: Path, found: dict[str, Classes], allow_missing: bool) -> None:
    every = sorted({name for classes in found.values() for name in classes})
    for part, classes in found.items():
        absent = [name for name in every if name not in classes]
        if absent and not allow_missing:
            raise DataError(
                f"The splits in {root} differ in classes: {part} has no folder {name_some(absent)}, "
                f"{len(absent)} of {len(every)}. Give every split the same class folders, or accept that with "
                "data.allow_missing=true."
            )
    if len(every) < 2:
        deeper = f" Is it data.root={root / every[0]}?" if every else ""
        raise DataError(
            f"{root} holds {len(every)} class folder{'s' * (not every)}{''.join(f' ({name})' for name in every)}; "
            f"telling classes apart needs at least two, with their images in each.{deeper}"
        )


def describe(parts: Parts, found: dict[str, Classes]) -> str:
    """Return one sentence: how many images of which classes, in which splits."""
    every = sorted({name for classes in found.values() for name in classes})
    counts = {part: sum(map(len, classes.values())) for part, classes in found.items()}
    splits = ", ".join(f"{part} {counts[part]:,} (folder {parts[part].name})" for part in WORDS if part in parts)
    return f"Found {sum(counts.values()):,} images of {len(every)} classes ({name_some(every)})" + (
        f" in predefined splits: {splits}." if splits else "."
    )
