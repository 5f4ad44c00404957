"""ExecuTorch programs: read as data before the runtime sees them, and the predictions of the checkpoint."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest

from deepbloom.engine.checkpoint import read_model
from deepbloom.errors import CheckpointError, ConfigError
from deepbloom.export import verify
from deepbloom.export.formats import check_packages
from deepbloom.export.opening import open_exported, open_predictor
from deepbloom.export.pte_file import read_pte

Run = Callable[..., tuple[int, str, str]]
Field = tuple[str, Any]


def build(*plans: list[Field | None], identifier: bytes = b"ET12") -> bytes:
    """Return a program with methods, in Google's own writer of FlatBuffers.

    A table is a list of fields: (kind, value), or None where it is absent.
    """
    builder = flatbuffers.Builder(0)

    def vector(places: list[int]) -> int:
        builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            builder.PrependUOffsetTRelative(place)
        return builder.EndVector()

    def value_of(kind: str, value: Any) -> Any:
        if kind == "text":
            return builder.CreateString(value)
        if kind == "table":
            return table(value)
        if kind == "tables":
            return vector([table(fields) for fields in value])
        if kind == "ints":
            return builder.CreateNumpyVector(np.asarray(value, "<i4"))
        if kind == "longs":
            return builder.CreateNumpyVector(np.asarray(value, "<u8"))
        return value

    def table(fields: list[Field | None]) -> int:
        made = [field and (field[0], value_of(*field)) for field in fields]
        builder.StartObject(len(made))
        for number, field in enumerate(made):
            if field and field[0] == "byte":
                builder.PrependUint8Slot(number, field[1], 0)
            elif field:
                builder.PrependUOffsetTRelativeSlot(number, field[1], 0)
        return builder.EndObject()

    root = table([None, ("tables", list(plans))])
    builder.Finish(root, file_identifier=identifier)
    return bytes(builder.Output())


def value(kind: int, *fields: Field | None) -> list[Field | None]:
    return [("byte", kind), ("table", list(fields))]


def plan(name: str = "forward", shape: tuple[int, ...] = (8, 4), **changes: Any) -> list[Field | None]:
    """Return a method with one tensor, one delegate for XNNPACK and one operator."""
    extra = ("table", [None, None, ("byte", changes.get("location", 0))])
    tensor = value(5, None, None, ("ints", shape), *[None] * 6, extra)
    return [
        ("text", name),
        None,
        ("tables", [tensor]),
        ("ints", [0]),
        ("ints", [0]),
        ("tables", [[None, None, ("tables", [[("byte", changes.get("instruction", 1))]])]]),
        ("tables", [[("text", changes.get("operator", "aten::mul"))]]),
        ("tables", [[("text", changes.get("backend", "XnnpackBackend"))]]),
        ("longs", [changes.get("memory", 4096)]),
    ]


def header(text: str) -> list[Field | None]:
    return [("text", "deepbloom"), None, ("tables", [value(6, ("text", text))]), ("ints", []), ("ints", [0])]


def test_the_header_is_read_without_a_runtime(tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(build(plan(), header('{"classes": ["é"]}')))
    content, found = read_pte(path)
    assert (content, found) == (path.read_bytes(), '{"classes": ["é"]}')
    path.write_bytes(build(plan()))
    assert read_pte(path)[1] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "other"}, "method 'other'"),
        ({"operator": "custom::run"}, "operator 'custom::run'"),
        ({"backend": "CudaBackend"}, "CudaBackend"),
        ({"instruction": 4}, "control flow"),
        ({"location": 1}, "another file"),
        ({"shape": (65536, 65536)}, "shape"),
        ({"shape": (-1, 4)}, "shape"),
        ({"memory": 2**40}, "memory"),
    ],
    ids=str,
)
def test_what_no_classifier_needs_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(build(plan(**changes)))
    with pytest.raises(CheckpointError, match=said):
        read_pte(path)


def test_damaged_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    """Cut anywhere, or with a byte changed; a changed name or shape may pass, and is the runtime's."""
    path, whole = tmp_path / "model.pte", build(plan(), header("{}"))
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match=r"model\.pte"):
            read_pte(path)
    for place in range(0, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with suppress(CheckpointError):
            read_pte(path)
    path.write_bytes(build(plan(), identifier=b"ET11"))
    with pytest.raises(CheckpointError, match="no ExecuTorch program"):
        read_pte(path)


def test_without_the_package_one_sentence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepbloom.errors.find_spec", lambda name: None)
    (tmp_path / "model.pte").write_bytes(build(plan(), header("{}")))
    for call in (lambda: check_packages("executorch", "fp32"), lambda: open_exported(tmp_path / "model.pte")):
        with pytest.raises(ConfigError, match=r"pip install 'deepbloom\[executorch\]'"):
            call()


def test_other_precisions_are_refused(deepbloom: Run) -> None:
    code, _, err = deepbloom("export", "ckpt=RUN", "format=executorch", "precision=int8")
    assert (code, "precision=fp32, not int8" in err) == (2, True)


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an export of the run."""
    pytest.importorskip("executorch", reason="the extra 'executorch' is not installed")
    from deepbloom.cli import main as cli

    folder = tmp_path_factory.mktemp("export") / "executorch"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "PASSES", 2)
        words = ["export", f"ckpt={trained_run}", "format=executorch", f"output_dir={folder}"]
        assert cli.guarded(lambda: cli.dispatch(words)) == 0
    return folder


def test_the_program_agrees_with_the_checkpoint_in_batches_of_any_size(exported: Path, trained_run: Path) -> None:
    before, after = read_model(trained_run), open_predictor(str(exported / "model.pte"))
    assert (after.classes, after.preprocessing, after.header) == (before.classes, before.preprocessing, before.header)
    size = before.preprocessing.size
    for count in (1, 3, 8, 19):
        pixels = np.random.default_rng(count).integers(0, 256, (count, size, size, 3), np.uint8)
        np.testing.assert_allclose(after.probabilities(pixels), before.probabilities(pixels), atol=1e-5)


def test_the_summary_says_that_all_predictions_are_equal_and_how_many_threads_ran(exported: Path) -> None:
    found = json.loads((exported / "export.json").read_text("utf-8"))
    assert (found["agreement"], found["verified"]) == (1.0, True)
    assert found["num_threads"] == open_exported(exported / "model.pte").num_threads
    assert found["size_bytes"] == (exported / "model.pte").stat().st_size


def test_commands_take_the_program(
    exported: Path, trained_run: Path, images: Path, deepbloom: Run, tmp_path: Path
) -> None:
    model = exported / "model.pte"
    scores = []
    for name, ckpt in (("run", trained_run), ("file", model)):
        assert deepbloom("eval", f"ckpt={ckpt}", f"output_dir={tmp_path / name}")[0] == 0
        scores.append(json.loads((tmp_path / name / "metrics.json").read_text())["test"])
    assert scores[0]["top1_accuracy"] == scores[1]["top1_accuracy"]
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], abs=1e-5)
    image = min(images.rglob("*.png"))
    code, _, err = deepbloom("predict", f"ckpt={model}", f"image={image}", f"output_dir={tmp_path / 'predict'}")
    assert (code, "cpuinfo" in err) == (0, False)
    arguments = ["suite=quick", "corruptions=darkness", f"output_dir={tmp_path / 'robustness'}"]
    assert deepbloom("robustness", f"ckpt={model}", *arguments)[0] == 0


def test_a_program_with_a_damaged_header_or_body_is_refused(exported: Path, tmp_path: Path) -> None:
    content = (exported / "model.pte").read_bytes()
    path = tmp_path / "model.pte"
    for damaged in (content.replace(b'"classes"', b'"glasses"'), content[: len(content) // 2], content[:-1000]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"model\.pte"):
            open_exported(path)
    path.write_bytes(content)
    open_exported(path)
