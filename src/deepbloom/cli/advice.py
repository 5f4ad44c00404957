"""What to write instead of a command line that cannot be read."""

import mimetypes
import os
import re
import shlex
from collections.abc import Iterator, Sequence

from deepbloom.config.commands import COMMANDS
from deepbloom.config.groups import groups_of
from deepbloom.config.schema import is_key, keys
from deepbloom.errors import closest, one_of

WRITE = {
    "lr lr0 learning_rate base_lr": "optimizer.lr",
    "opt": "optimizer",
    "wd decay": "optimizer.weight_decay",
    "sched lr_scheduler": "scheduler",
    "warmup warmup_epochs warmup_steps": "scheduler.warmup_fraction",
    "max_epochs num_epochs n_epochs": "train.epochs",
    "batch bs batchsize": "train.batch_size batch_size",
    "workers n_workers": "train.num_workers",
    "threads": "train.num_threads",
    "gpu gpus cuda accelerator": "train.device=cuda device=cuda",
    "amp half mixed_precision": "train.precision",
    "smoothing": "train.label_smoothing",
    "ema model_ema": "train.ema_decay",
    "pretrained": "model.weights=imagenet",
    "init": "model.weights",
    "model checkpoint ckpt run weights": "ckpt model.weights",
    "arch architecture backbone net network": "model",
    "freeze unfreeze": "model.trainable",
    "source input img images file": "image data.root",
    "data_dir data_path dataset_path train_dir folder": "data.root",
    "dataset": "data",
    "project save_dir out out_dir output save_path exp_name": "output_dir",
    "val_split validation_split": "data.split.val_fraction",
    "test_split test_size": "data.split.test_fraction",
    "kfold n_splits": "data.split.folds",
    "random_state manual_seed": "seed",
    "mixup mixup_alpha": "augment.ops.mixup.alpha",
    "class_weight class_weights balanced weighted_sampler oversample": "train.balance=weights",
    "letterbox keep_ratio keep_aspect_ratio": "data.fit=pad",
    "cutmix cutmix_alpha": "augment.ops.cutmix.alpha",
    "reprob random_erase erasing": "augment.ops.erase.probability",
    "rotation_range": "augment.ops.rotate.degrees",
    "fliplr hflip horizontal_flip": "augment.ops.flip={}",
}
"""Words of ultralytics, timm and Keras, and what they are here: the first that is a key of the command."""
ABSENT = {
    "patience early_stopping": "There is no early stopping: the best epoch on the validation split is kept.",
    "imgsz img_size image_size input_size": "Images have the size that the network was made for; "
    "augment.train_resolution scales those of training.",
    "num_classes classes nc": "Each folder of images is a class; data.num_classes is for data=synthetic.",
    "dropout drop drop_rate": "Dropout is part of the network.",
    "momentum": "optimizer=sgd has Nesterov momentum 0.9.",
    "mosaic": "augment=mixup and augment=cutmix mix images.",
    "aa auto_augment autoaugment randaugment rand_augment": "augment=trivial changes each image in a random way.",
    "loss criterion": "Training minimizes cross-entropy; train.label_smoothing changes its targets.",
    "monitor metrics": "The validation accuracy chooses the epoch: the latest within its standard error.",
}
"""Words for which DeepBloom has no setting, and why."""


def unknown_key(command: str, key: str, value: str = "VALUE") -> str:
    """Return the sentence for a key that the command does not have: what to write, what is near, or what there is."""
    start = f"deepbloom {command} has no key {key!r}."
    word = _word(key)
    if command == "train":
        for words, reason in ABSENT.items():
            if word in words.split():
                return f"{start} {reason}"
    if ours := _translate(command, word):
        return f"{start} Write {_assign(ours, value)}."
    known = [entry.name for entry in keys(COMMANDS[command].settings)] + list(groups_of(COMMANDS[command].settings))
    if near := closest(key, known):
        return f"{start} Did you mean {one_of(near)}?"
    first = sorted({name.partition(".")[0] + ".*" * ("." in name) for name in known})
    whole = [name for name in first if f"{name}.*" not in first]
    return f"{start} It has {', '.join(whole)}; deepbloom {command} --help explains them."


def unknown_option(command: str, words: Sequence[str]) -> str | None:
    """Return what to write instead of ``--model X`` or ``--model=X``, if that is a setting; ``words`` begin with it."""
    name, sign, value = words[0].lstrip("-").partition("=")
    following = words[1] if len(words) > 1 and "=" not in words[1] and not words[1].startswith("-") else "VALUE"
    value = value if sign else following
    ours = name if is_key(COMMANDS[command].settings, name) else _translate(command, _word(name))
    ours = ours or next(iter(closest(name, [key.name for key in keys(COMMANDS[command].settings)])), None)
    return ours and f"Settings are written without dashes: {shlex.quote(_assign(ours, value))}."


def stray_word(command: str, arguments: Sequence[str]) -> str:
    """Return what to write instead of arguments, one of which is not ``key=value``."""
    for place, word in enumerate(arguments):
        blank = re.fullmatch(r"([\w.]+) ?= ?([^=\s].*)", " ".join(arguments[place : place + 3]))
        two = re.fullmatch(r"([\w.]+) ?= ?([^=\s].*)", " ".join(arguments[place : place + 2]))
        found = two or blank
        if found and "=" not in word.rstrip("="):
            return f"Write {shlex.quote(f'{found[1]}={found[2]}')}, without blanks around the equals sign."
    word = next(filter(is_stray, arguments))
    schema = COMMANDS[command].settings
    if word == "help":
        return f"deepbloom {command} --help lists the keys."
    if ours := word if is_key(schema, word) else _translate(command, _word(word)):
        return f"{word!r} has no value: write {_assign(ours, 'VALUE')}."
    if written := list(_assigned(command, arguments)):
        return f"Write deepbloom {command} {shlex.join(written)}"
    if os.path.lexists(word) and any(argument.startswith("image=") for argument in arguments):
        return f"{word!r} is a second image: quote the pattern, as in 'image=*.jpg', or a list, 'image=[a.jpg,b.jpg]'."
    return f"Cannot read {word!r}: expected key=value. deepbloom {command} --help lists the keys."


def is_stray(argument: str) -> bool:
    """Return whether an argument is neither ``key=value`` nor ``~key``."""
    readable = "=" in argument[1:] and not os.path.isfile(argument)
    return not readable and not argument.startswith("~")


def _assigned(command: str, arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments with a key before those that lack one; nothing if it is not clear which."""
    schema = COMMANDS[command].settings
    known = {key.name: key for key in keys(schema)}
    given = {argument.partition("=")[0] for argument in arguments if not is_stray(argument)}
    names = ("ckpt", "image") if "data.root" in known else ("ckpt", "image", "runs")
    free = [name for name in names if name in known and name not in given]
    written: list[str] = []
    for position, argument in enumerate(arguments):
        group = next((group for group, names in groups_of(schema).items() if argument in names), None)
        if not is_stray(argument):
            written.append(argument)
        elif group:
            written.append(f"{group}={argument}")
        elif free == ["image"]:
            rest = [word for word in arguments[position:] if is_stray(word)]
            yield from [*written, f"image={rest[0]}" if len(rest) == 1 else f"image=[{','.join(rest)}]"]
            yield from (word for word in arguments[position:] if not is_stray(word))
            return
        elif free:
            is_image = "image" in free and str(mimetypes.guess_type(argument)[0]).startswith("image/")
            name = "image" if is_image else free[0]
            free.remove(name)
            written.append(f"{name}={argument}")
        elif "data.root" in known and os.path.isdir(argument):
            written += ["data=imagefolder", f"data.root={argument}"]
        else:
            return
    yield from written


def unknown_name(group: str, name: str) -> str:
    """Return what to add to the choices of a group."""
    if group == "model":
        return f" Any network of timm is model=timm model.arch={name}."
    if group == "data":
        return f" For a folder of your own images write data=imagefolder data.root={name}."
    return ""


def _word(key: str) -> str:
    return key.rpartition(".")[2].lower().replace("-", "_")


def _translate(command: str, word: str) -> str | None:
    schema = COMMANDS[command].settings
    groups = groups_of(schema)
    for ours in (ours for words, ours in WRITE.items() if word in words.split()):
        for candidate in ours.split():
            name = candidate.partition("=")[0]
            if name in groups or is_key(schema, name):
                return candidate
    return None


def _assign(key: str, value: str) -> str:
    return key if "=" in key else f"{key}={value}"
