"""Write the tutorial as a notebook: ``python scripts/tutorial_notebook.py docs/tutorial.md docs/tutorial.ipynb``."""

import re
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

INSTALL = """\
import os

if not os.path.exists("../pyproject.toml"):  # outside docs/ of a clone, as on Colab
    repository = input("Address of the repository: ")
    !git clone --quiet --depth 1 {repository} deepbloom
    %cd -q deepbloom/docs
%pip install --quiet "..[lite0]"
"""
RUNS = "outputs/tutorial"
FIGURES = {  # of the text: what the commands before it have written
    "images/tutorial/flowers.webp": ["outputs/data/contact_sheet.png"],
    "images/tutorial/scratch_cnn.png": [f"{RUNS}/scratch_cnn/plots/curves.png"],
    "images/tutorial/mini_resnet.png": [f"{RUNS}/mini_resnet/plots/curves.png"],
    "images/tutorial/frozen.png": [f"{RUNS}/efficientnet_lite0_frozen/plots/curves.png"],
    "images/tutorial/calibration.png": [f"{RUNS}/efficientnet_lite0_frozen/plots/calibration.png"],
    "images/tutorial/heatmaps.webp": [
        f"{RUNS}_heatmaps/{model}/marsh_feather_pink_gradcam.png"
        for model in ("mini_resnet", "efficientnet_lite0_frozen")
    ],
    "images/demo.webp": [],
}
COMMANDS = re.compile(r"^```bash\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
FIGURE = re.compile(r"^!\[.*?\]\((.*?)\)\n(?:\n\*[^*]+\*\n)?", re.MULTILINE)  # with its caption
LINK = re.compile(r"\[(.*?)\]\(\w+\.md\)")  # leads nowhere on Colab
OUTPUT = re.compile(r"^```text\n.*?^```\n", re.DOTALL | re.MULTILINE)


def commands(markdown: str) -> list[str]:
    """Return the commands of a tutorial, one per line; a line that ends in a backslash is joined with the next."""
    blocks = "".join(COMMANDS.findall(markdown)).replace("\\\n", " ")
    return [" ".join(line.split()) for line in blocks.splitlines() if line.strip()]


def build(markdown: str) -> nbformat.NotebookNode:
    """Return the notebook: commands and figures become code cells; outputs and links to other pages are left out."""
    text = LINK.sub(r"\1", OUTPUT.sub("", markdown))
    cells = [new_code_cell(INSTALL.strip())]
    for number, part in enumerate(COMMANDS.split(text)):
        if number % 2:
            cells.append(new_code_cell("\n".join(f"!{command}" for command in commands(f"```bash\n{part}```\n"))))
        else:
            cells += _text_and_figures(part)
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def _text_and_figures(text: str) -> list[nbformat.NotebookNode]:
    cells = []
    for number, part in enumerate(FIGURE.split(text)):
        if number % 2 == 0 and part.strip():
            cells.append(new_markdown_cell(part.strip()))
        elif number % 2:
            cells += [new_code_cell(f'from IPython.display import Image\n\nImage("{path}")') for path in FIGURES[part]]
    return cells


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    notebook = build(source.read_text("utf-8"))
    nbformat.validate(notebook)
    target.write_text(nbformat.writes(notebook) + "\n", "utf-8")


if __name__ == "__main__":
    main()
