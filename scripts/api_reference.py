"""Write the API reference, built from the docstrings: ``python scripts/api_reference.py FOLDER``."""

import sys
from pathlib import Path

import pdoc

import deepbloom


def main() -> None:
    del deepbloom.__all__  # pdoc would leave out the modules that it does not name
    pdoc.render.configure(docformat="numpy")
    pdoc.pdoc("deepbloom", output_directory=Path(sys.argv[1]))


if __name__ == "__main__":
    main()
