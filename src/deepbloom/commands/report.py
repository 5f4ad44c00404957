"""``deepbloom report``: compare the runs in a folder."""

from pathlib import Path

from deepbloom import run_dir
from deepbloom.analysis.report import write_report
from deepbloom.config import ReportConfig


def run(config: ReportConfig) -> None:
    """Write report.md, report.csv, report.html and figures/, and print the table and where they are.

    Raises
    ------
    RunError
        There is no run in the folder.
    """
    folder = run_dir.make_folder(Path(config.output_dir))
    paths = write_report(Path(config.runs), folder)
    print(paths)
