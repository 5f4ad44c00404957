"""Write the tutorial as a notebook: ``python scripts/tutorial_notebook.py docs/tutorial.md docs/tutorial.ipynb``."""

import re
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

INSTALL = '%pip install -q "..[lite0]"  # the notebook lies in docs/ of a clone'
COMMANDS = re.compile(r"^```bash\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
OUTPUT = re.compile(r"^```text\n.*?^```\n", re.DOTALL | re.MULTILINE)


def commands(markdown: str) -> list[str]:
    """Return the commands of a tutorial, one per line; a line that ends in a backslash is joined with the next."""
    blocks = "".join(COMMANDS.findall(markdown)).replace("\\\n", " ")
    return [" ".join(line.split()) for line in blocks.splitlines() if line.strip()]


def build(markdown: str) -> nbformat.NotebookNode:
    """Return the notebook: commands become code cells; the outputs that stand in the text are left out."""
    cells = [new_code_cell(INSTALL)]
    for number, part in enumerate(COMMANDS.split(OUTPUT.sub("", markdown))):
        if number % 2:
            cells.append(new_code_cell("\n".join(f"!{command}" for command in commands(f"```bash\n{part}```\n"))))
        elif part.strip():
            cells.append(new_markdown_cell(part.strip()))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    notebook = build(source.read_text("utf-8"))
    nbformat.validate(notebook)
    target.write_text(nbformat.writes(notebook) + "\n", "utf-8")


if __name__ == "__main__":
    main()
