"""Time, processor time and size of the report of many runs: ``python benchmarks/report_time.py --runs 500``.

The runs are invented: five seeds of each model, all on the same test images.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from deepbloom.cli.main import dispatch
from fake_runs import write_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--images", type=int, default=892)
    parser.add_argument("--classes", type=int, default=89)
    arguments = parser.parse_args()
    names = tuple(f"class {number}" for number in range(arguments.classes))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.runs):
            model, seed = divmod(number, 5)
            accuracy = 0.5 + 0.45 * (model * 5 / arguments.runs)
            write_run(Path(folder, "runs", f"run{number}"), f"model{model}", seed, accuracy, arguments.images, names)
        started, used = time.perf_counter(), time.process_time()
        dispatch(["report", f"runs={folder}/runs", f"output_dir={folder}/report"])
        seconds, processor = time.perf_counter() - started, time.process_time() - used
        size = os.path.getsize(Path(folder, "report", "report.html"))
    print(f"{arguments.runs} runs: {seconds:.1f} s, {processor:.1f} s of processor time, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
