"""The process that measures the memory of an exported file."""

from pathlib import Path

import pytest

from deepbloom.export.verify import _peak


def test_the_process_imports_no_module_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numpy.py").write_text("open('ran', 'w')")
    assert _peak(tmp_path / "missing.onnx") is None
    assert not (tmp_path / "ran").exists()
