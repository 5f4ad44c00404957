"""Files from strangers are data: no pickle, setting, checkpoint, run folder or archive makes anything run."""

import builtins
import codecs
import ctypes
import importlib
import io
import json
import logging.config
import operator
import os
import pickle
import pickletools
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from children import Child
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from small_runs import settings

from deepbloom.cli import main as cli
from deepbloom.commands.eval import run as evaluate
from deepbloom.commands.train import train
from deepbloom.config.command_settings import EvalConfig
from deepbloom.data import pixel_cache
from deepbloom.data.sources import flowers102
from deepbloom.engine.checkpoint import MODEL_KIND, STATE_KIND, read_model, read_tensors, write_tensors
from deepbloom.engine.resolve import resolve
from deepbloom.errors import CheckpointError, DataError, WeightsError
from deepbloom.models.weights import read_weights
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir
from deepbloom.runs.reading import find_runs

# Pickles


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.result = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.result


def hostile_values(canary: Path) -> dict[str, Any]:
    """Return objects whose unpickling writes ``canary``, or would call what it must not."""
    touch, write = f"touch {canary}", f"open({str(canary)!r}, 'w')"
    named = {
        "os.system": Call(os.system, touch),
        "os.popen": Call(os.popen, touch),
        "posix.mkdir": Call(os.mkdir, str(canary)),
        "open": Call(open, str(canary), "w"),
        "io.open": Call(io.FileIO, str(canary), "w"),
        "eval": Call(eval, write),
        "exec": Call(exec, write),
        "compile": Call(builtins.compile, write, "x", "exec"),
        "subprocess.run": Call(subprocess.run, ["touch", str(canary)]),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", str(canary)]),
        "import_module": Call(importlib.import_module, "antigravity"),
        "__import__": Call(__import__, "this"),
        "partial": Call(partial, os.system, touch),
        "methodcaller": Call(operator.methodcaller, "system", touch),
        "attrgetter": Call(operator.attrgetter, "system"),
        "map": Call(map, os.system, [touch]),
        "codecs": Call(codecs.decode, b"x", "rot13"),
        "ctypes": Call(ctypes.CDLL, "libc.so.6"),
        "shutil.rmtree": Call(shutil.rmtree, str(canary.parent / "kept")),
        "logging.config": Call(logging.config.dictConfig, {"version": 1, "handlers": {"x": {"()": "os.getcwd"}}}),
        "torch.load": Call(torch.load, str(canary)),
        "torch.hub": Call(torch.hub.load_state_dict_from_url, "http://localhost:9/x.pth"),
        "torch.jit": Call(torch.jit.load, str(canary)),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.system, touch))),
        "state of a dict": Call(OrderedDict, state=Call(os.system, touch)),
    }
    tensor = torch.zeros(2)
    named["beside tensors"] = OrderedDict(weight=tensor, evil=Call(os.system, touch))
    named["below tensors"] = {"state_dict": {"weight": tensor, "x": [Call(os.system, touch)]}}
    named["key"] = {Call(str, touch): tensor}
    return named


def hostile_files(folder: Path, canary: Path) -> Iterator[tuple[str, Path]]:
    for name, value in hostile_values(canary).items():
        for protocol in (2, 4):
            path = folder / f"{name} {protocol}.pth"
            path.write_bytes(pickle.dumps(value, protocol))
            yield path.name, path
        torch.save(value, folder / f"{name} torch.pt")
        yield f"{name} torch", folder / f"{name} torch.pt"
    by_hand = {
        "global": b"cos\nsystem\n(S'touch %s'\ntR." % os.fsencode(canary),
        "getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nS'__call__'\ntR.",
        "inst": b"(S'touch %s'\nios\nsystem\n." % os.fsencode(canary),
        "obj": b"(cos\nsystem\nS'touch %s'\no." % os.fsencode(canary),
        "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x05touch\x85R.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Pos.system\n.",
        "no end": b"(" * 5000,
        "deep": b"(" * 200_000 + b"t" * 200_000 + b".",
        "long number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "large memo": b"\x80\x02]r\xff\xff\xff\xff.",
    }
    for name, content in by_hand.items():
        (folder / f"{name}.pth").write_bytes(content)
        yield name, folder / f"{name}.pth"
    with zipfile.ZipFile(folder / "script module.pt", "w") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(()))
        archive.writestr("archive/data.pkl", pickle.dumps(Call(os.system, f"touch {canary}")))
        archive.writestr("archive/code/__torch__.py", "import os")
    yield "script module", folder / "script module.pt"


def test_no_pickle_runs_and_each_is_refused(tmp_path: Path, tally: Callable) -> None:
    canary, files = tmp_path / "canary", tmp_path / "files"
    files.mkdir()
    (tmp_path / "kept").mkdir()
    corpus = dict(hostile_files(files, canary))
    assert len(corpus) >= 80
    modules = set(sys.modules)
    for path in corpus.values():
        with pytest.raises(WeightsError):
            read_weights(path)
        with pytest.raises(CheckpointError):
            read_model(path)
        assert not canary.exists(), path
        tally("attacks refused")
    assert (tmp_path / "kept").exists()
    assert not {"antigravity", "this"} & (set(sys.modules) - modules)


def field(number: int, content: bytes) -> bytes:
    """Return a field of a protobuf message that holds a text, bytes or another message of less than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def test_onnx_whose_weights_lie_elsewhere_is_refused_and_they_stay_unread(tmp_path: Path, tally: Callable) -> None:
    """A pipe in their place would make a reader wait for ever."""
    (tmp_path / "inside").mkdir()
    os.mkfifo(tmp_path / "weights.bin")
    location = field(13, field(1, b"location") + field(2, b"../weights.bin"))
    tensor = b"\x08\x01\x10\x01" + field(8, b"fc.weight") + location + b"\x70\x01"
    path = tmp_path / "inside" / "model.onnx"
    path.write_bytes(b"\x08\x08" + field(7, field(5, tensor)))
    with pytest.raises(WeightsError):
        read_weights(path)
    with pytest.raises(CheckpointError):
        read_model(path)
    tally("attacks refused", 2)


@pytest.mark.parametrize("name", ["os.system", "eval", "subprocess.run", "partial", "pickle.loads", "state of a dict"])
def test_where_it_is_trusted_the_same_pickle_runs(name: str, tmp_path: Path) -> None:
    """The control: the corpus is not harmless."""
    value = hostile_values(tmp_path / "canary")[name]
    if name == "partial":
        assert callable(pickle.loads(pickle.dumps(value)))
        return
    content = pickle.dumps(value)
    assert any(opcode.name in ("GLOBAL", "STACK_GLOBAL") for opcode, _, _ in pickletools.genops(content))
    child = Child(lambda: pickle.loads(content), tmp_path / "output")
    child.wait()
    assert (tmp_path / "canary").exists()


# Settings


def hostile_settings(canary: Path) -> list[Any]:
    """Return 40 values that a config system could be led to run, import or resolve."""
    touch = f"touch {canary}"
    call = {"_target_": "os.system", "command": touch}
    targets = ("os.system", "builtins.eval", "builtins.exec", "subprocess.run", "hydra.utils.call", "torch.load")
    values: list[Any] = [{"_target_": name, "_args_": [touch]} for name in targets]
    values += [
        call,
        call | {"_partial_": True},
        call | {"_recursive_": False},
        call | {"_convert_": "all"},
        {"_target_": "hydra.utils.instantiate", "config": call},
        {"_target_": "hydra._internal.utils._locate", "path": "os.system"},
        {"_target_": "functools.partial", "_args_": [call]},
        {"_target_": "importlib.import_module", "name": "antigravity"},
        {"_target_": "builtins.getattr", "_args_": [{"_target_": "importlib.import_module", "name": "os"}, "system"]},
        {"_target_": "${oc.env:HOME}"},
        {"deep": {"deeper": [call]}},
        [call],
        [[{"x": call}]],
        {"hydra": {"launcher": call, "run": {"dir": str(canary)}}},
        {"hydra": {"callbacks": {"evil": call}}},
        {"defaults": [{"override hydra/launcher": "joblib"}, "_self_"]},
        {"__class__": "os.system", "__init__": [touch]},
        {"py/object/apply": "os.system", "py/reduce": [touch]},
        "${oc.env:CANARY}",
        "${oc.env:PATH,default}",
        "${env:HOME}",
        "${oc.create:{_target_: os.system}}",
        "${oc.select:hydra}",
        "${oc.decode:'!!python/object/apply:os.system'}",
        "${hydra:runtime.cwd}",
        "${now:%Y}",
        "${python_version:}",
        f"${{eval:{touch}}}",
        "${run:x}",
        "${model.name}",
        "${${oc.env:CANARY}}",
        "!!python/object/apply:os.system ['true']",
        "$(touch canary)",
        f"`{touch}`",
        "{{ 7 * 7 }}",
        "%(asctime)s",
    ]
    return values


YAML_TAGS = (
    "x: !!python/object/apply:os.system ['touch {canary}']",
    "x: !!python/object/new:os.system ['touch {canary}']",
    "x: !!python/name:os.system",
    "x: !!python/module:antigravity",
    "!!python/object/apply:subprocess.run [['touch', '{canary}']]",
    "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c]",
    "a: &a\n  b: *a",
    "<<: &x {{a: 1}}\nb: *x",
    "[" * 3000,
    "x: " + "9" * 6000,
    "x: 99999-99-99",
    "- 1\n- 2",
    "text",
    "",
    "x: \x00",
)


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(settings(images, tmp_path_factory.mktemp("run") / "run"))


def watch_imports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list into which calls of hydra's and importlib's lookups by name go."""
    called: list[str] = []
    import hydra._internal.utils as hydra_utils
    import hydra.utils

    for module, name in ((hydra_utils, "_locate"), (hydra.utils, "instantiate"), (hydra.utils, "call")):
        monkeypatch.setattr(module, name, lambda *arguments, **_: called.append(str(arguments)))
    monkeypatch.setattr(os, "system", lambda command: called.append(command))
    return called


def test_forty_hostile_settings_in_a_checkpoint_run_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    canary = tmp_path / "canary"
    values = hostile_settings(canary)
    assert len(values) >= 40
    monkeypatch.setenv("CANARY", "secret-canary-value")
    monkeypatch.chdir(tmp_path)
    tensors, header = read_tensors(run / run_dir.MODEL, MODEL_KIND)
    called = watch_imports(monkeypatch)
    for number, value in enumerate(values):
        field = ("data", "split", "arch", "preprocessing")[number % 4]
        changed = json.loads(json.dumps(header))
        if field == "split":
            changed["data"]["split"] = value
        elif field == "data":
            changed["data"] |= value if isinstance(value, dict) else {"root": value}
        else:
            changed[field] = value
        path = tmp_path / "evil.safetensors"
        write_tensors(path, tensors, changed)
        code = cli.guarded(lambda: evaluate(EvalConfig(ckpt=str(path), output_dir="out")))  # noqa: B023
        said = capsys.readouterr()
        assert code == 2, (value, said.err)
        assert "Traceback" not in said.err
        assert "secret-canary-value" not in said.out + said.err
        assert not called
        assert not canary.exists()
        tally("attacks refused")


def test_the_name_of_a_model_in_a_checkpoint_is_text_that_nothing_resolves(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    monkeypatch.setenv("CANARY", "secret-canary-value")
    monkeypatch.chdir(tmp_path)
    tensors, header = read_tensors(run / run_dir.MODEL, MODEL_KIND)
    called = watch_imports(monkeypatch)
    for value in hostile_settings(tmp_path / "canary"):
        write_tensors(tmp_path / "evil.safetensors", tensors, header | {"model": value})
        code = cli.guarded(lambda: evaluate(EvalConfig(ckpt="evil.safetensors", output_dir="out")))
        said = capsys.readouterr()
        assert code == (0 if isinstance(value, str) else 2), (value, said.err)
        written = (tmp_path / "out" / "metrics.json").read_text() if code == 0 else ""
        assert "secret-canary-value" not in said.out + said.err + written
        assert not called
        assert not (tmp_path / "canary").exists()
        tally("attacks refused")


@pytest.mark.parametrize("named", [False, True], ids=["by the checkpoint", "by the user"])
def test_a_folder_that_only_a_checkpoint_names_is_never_written_to(
    named: bool, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    """Also the control: the user's own choice of a cache folder is followed, and only the cache's files go there."""
    victim = tmp_path / "victim"
    victim.mkdir()
    own = f"imagefolder-16-{'0' * 32}.tmp"
    for name in ("letter.tmp", "a-b-c.tmp", "other.pixels", own):
        (victim / name).write_text("canary")
    monkeypatch.setattr(pixel_cache, "BUDGET_BYTES", 100_000)
    (victim / "large.pixels").write_bytes(bytes(100_000))
    before = sorted(path.name for path in victim.iterdir())
    tensors, header = read_tensors(run / run_dir.MODEL, MODEL_KIND)
    header["data"]["pixel_cache"] = str(victim)
    write_tensors(tmp_path / "evil.safetensors", tensors, header)
    given = {"pixel_cache": str(victim)} if named else {}
    evaluate(EvalConfig(str(tmp_path / "evil.safetensors"), str(tmp_path / "out"), given))
    after = sorted(path.name for path in victim.iterdir())
    if named:
        assert set(before) - set(after) == {own}
        assert len([name for name in after if name.endswith(".pixels")]) == 3
    else:
        assert after == before
    assert (victim / "letter.tmp").read_text() == "canary"
    tally("attacks refused")


def test_flowers_are_not_downloaded_to_where_only_a_checkpoint_says(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    asked: list[object] = []

    def urlopen(request: Any, **_: Any) -> None:
        asked.append(request)
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    tensors, header = read_tensors(run / run_dir.MODEL, MODEL_KIND)
    header["data"] |= {"name": "flowers102", "root": str(tmp_path / "victim")}
    (tmp_path / "victim").mkdir()
    path = tmp_path / "evil.safetensors"
    write_tensors(path, tensors, header)
    with pytest.raises(CheckpointError, match=r"Say where it is or should go: data\.root"):
        evaluate(EvalConfig(str(path), str(tmp_path / "out")))
    assert not asked
    assert not list((tmp_path / "victim").iterdir())
    with pytest.raises(DataError, match="no network"):  # the control: where the user says so, it is tried
        evaluate(EvalConfig(str(path), str(tmp_path / "out"), {"root": str(tmp_path / "victim")}))
    assert asked
    tally("attacks refused")


def test_hostile_settings_in_a_run_folder_run_nothing(
    run: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tally: Callable,
) -> None:
    canary = tmp_path / "canary"
    texts = [yaml.safe_dump({"model": value, "data": value, "x": value}) for value in hostile_settings(canary)]
    texts += [text.format(canary=canary) for text in YAML_TAGS]
    monkeypatch.setenv("CANARY", "secret-canary-value")
    called = watch_imports(monkeypatch)
    folder = tmp_path / "runs" / "evil"
    shutil.copytree(run, folder)
    provenance = (folder / run_dir.PROVENANCE).read_text()
    attacks = [(run_dir.CONFIG, text, 0) for text in texts]  # a run is recognized by its provenance alone
    attacks += [
        (run_dir.PROVENANCE, json.dumps({"identity": {"seed": value}, "run_id": value}), 2)
        for value in hostile_settings(canary)
    ]
    for name, text, expected in attacks:
        (folder / run_dir.PROVENANCE).write_text(provenance)
        (folder / name).write_text(text)
        code = cli.guarded(lambda: train(settings(images, folder)))
        said = capsys.readouterr()
        assert code == expected, (text, said.err)
        assert "Traceback" not in said.err
        assert "secret-canary-value" not in said.out + said.err
        find_runs(tmp_path / "runs")  # what `deepbloom report` reads
        assert not called
        assert not canary.exists()
        tally("attacks refused")


def test_a_trusting_loader_would_run_them(tmp_path: Path) -> None:
    """The control: hydra does run a target, and an unsafe loader a tag."""
    import hydra.utils

    canary = tmp_path / "canary"

    def work() -> None:
        hydra.utils.instantiate({"_target_": "pathlib.Path.touch", "self": canary})

    Child(work, tmp_path / "output").wait()
    assert canary.exists()
    canary.unlink()
    Child(lambda: yaml.unsafe_load(YAML_TAGS[0].format(canary=canary)), tmp_path / "output").wait()
    assert canary.exists()


def test_billions_of_values_named_by_aliases_are_not_expanded() -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{" + ", ".join(f"k{i}: *a{n - 1}" for i in range(9)) + "}" for n in range(1, 12)]
    with pytest.raises(ValueError, match="aliases"):
        run_dir.load_settings("\n".join(lines))


def test_a_state_from_a_stranger_is_refused_as_a_whole(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture, tally: Callable
) -> None:
    config = settings(images, tmp_path / "run", epochs=4)
    folder = atomic_files.make_folder(tmp_path / "run")
    run_dir.write_settings(folder, config, resolve(config).identity)
    tensors, header = read_tensors(run / run_dir.LAST, STATE_KIND)
    evil = {"_target_": "os.system"}
    changes: tuple[dict[str, Any], ...] = (evil, {"progress": evil}, {"scaler": "x"}, {"run_id": {}})
    for change in changes:
        write_tensors(folder / run_dir.LAST, tensors, header | change)
        assert cli.guarded(lambda: train(config)) == 2
        assert "Traceback" not in capsys.readouterr().err
        tally("attacks refused")


# The checkpoint reader under random bytes


def _fuzz_checkpoint(tmp_path_factory: pytest.TempPathFactory, header: bytes, rest: bytes, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(length.to_bytes(8, "little", signed=False) + header + rest)
    with pytest.raises(CheckpointError):
        read_model(path)
    with pytest.raises(WeightsError):
        read_weights(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 2**70) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["__metadata__", "dtype", "shape", "data_offsets", "header", "digest", "a"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "BF16", "I64", "U8", "X"]),
        "shape": st.lists(st.integers(0, 2**40), max_size=3),
        "data_offsets": st.lists(st.integers(0, 2**40), min_size=2, max_size=2),
    }
)
HEADERS = st.binary(max_size=64) | st.one_of(JSON, st.dictionaries(st.text(max_size=3), TENSOR | JSON, max_size=3)).map(
    lambda value: json.dumps(value).encode()
)


@hypothesis_settings(deadline=None, max_examples=150)
@given(HEADERS, st.binary(max_size=32), st.integers(-2, 2))
def test_no_bytes_make_the_reader_do_anything_but_refuse(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, rest: bytes, off: int
) -> None:
    _fuzz_checkpoint(tmp_path_factory, header, rest, max(0, len(header) + off))


@pytest.mark.long
@hypothesis_settings(deadline=None, max_examples=10_000)
@given(HEADERS, st.binary(max_size=32), st.integers(-2, 2) | st.integers(0, 2**63))
def test_thousands_of_strange_checkpoints_are_refused(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, rest: bytes, off: int
) -> None:
    _fuzz_checkpoint(tmp_path_factory, header, rest, max(0, len(header) + off))


# Archives


def member(name: str, content: bytes = b"x", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content) if fields.get("type", tarfile.REGTYPE) == tarfile.REGTYPE else 0
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


ARCHIVES = {
    "upwards": member("../escaped.jpg"),
    "upwards inside": member("jpg/../../escaped.jpg"),
    "absolute": member("/tmp/deepbloom-escaped.jpg"),
    "symbolic link": member("jpg/image_00001.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "link upwards": member("jpg/up", type=tarfile.SYMTYPE, linkname="../../.."),
    "hard link": member("jpg/image_00001.jpg", type=tarfile.LNKTYPE, linkname="../setid.mat"),
    "device": member("jpg/image_00001.jpg", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "block device": member("jpg/image_00001.jpg", type=tarfile.BLKTYPE, devmajor=8),
    "pipe": member("jpg/image_00001.jpg", type=tarfile.FIFOTYPE),
    "another place": member("bin/run.sh"),
    "another kind": member("jpg/run.py"),
    "a folder below": member("jpg/deep/image_00001.jpg"),
    "strange bytes": member("jpg/\udcff\n.jpg"),
}


@pytest.mark.parametrize("name", [*ARCHIVES, "bomb", "many"])
def test_an_archive_that_is_not_just_images_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Callable
) -> None:
    monkeypatch.setattr(flowers102, "MAX_UNPACKED_BYTES", 100_000)
    folder = tmp_path / "flowers-102"
    folder.mkdir()
    with tarfile.open(folder / flowers102.ARCHIVE, "w:gz") as archive:
        archive.addfile(member("jpg/image_00002.jpg")[0], io.BytesIO(b"x"))
        members = {
            "bomb": [member("jpg/image_00001.jpg", bytes(200_000))],
            "many": [member(f"jpg/image_{n:05d}.jpg", bytes(30_000)) for n in range(9)],
        }.get(name) or [ARCHIVES[name]]
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match="Cannot unpack"):
        flowers102.extract(folder, flowers102.ARCHIVE, "jpg")
    assert sorted(path.name for path in folder.iterdir()) == [".lock", flowers102.ARCHIVE]
    assert not list(tmp_path.rglob("escaped*"))
    assert not Path("/tmp/deepbloom-escaped.jpg").exists()
    tally("attacks refused")
