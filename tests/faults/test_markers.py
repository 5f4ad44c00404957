"""Long tests stay out of the ordinary run."""

from pathlib import Path

import pytest


@pytest.mark.parametrize(("options", "chosen"), [([], ["quick"]), (["-m", "long"], ["slow"])])
def test_the_ordinary_run_leaves_long_tests_out(options, chosen, tmp_path, pytestconfig):
    test_file = tmp_path / f"test_{chosen[0]}_is_chosen.py"
    test_file.write_text("import pytest\ndef test_quick(): pass\n@pytest.mark.long\ndef test_slow(): pass\n")
    seen: list[str] = []

    class Collected:
        def pytest_collection_finish(self, session):
            seen.extend(item.name for item in session.items)

    configuration = Path(pytestconfig.rootpath) / "pyproject.toml"
    pytest.main(["-c", str(configuration), "--collect-only", *options, str(test_file)], plugins=[Collected()])
    assert seen == [f"test_{name}" for name in chosen]
