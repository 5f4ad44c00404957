"""``deepbloom report``: compare the runs in a folder."""

from pathlib import Path

from deepbloom.config.command_settings import ReportConfig
from deepbloom.report.report import write_report


def run(config: ReportConfig) -> None:
    """Write report.md, report.csv, report.html and figures/, and print the table and where they are.

    Raises
    ------
    RunError
        There is no run in the folder.
    """
    slices = Path(config.slices) if config.slices else None
    print(write_report(Path(config.runs), Path(config.output_dir), thumbnails=config.thumbnails, slices=slices))
