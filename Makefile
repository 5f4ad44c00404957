# make quickstart   train, explain and compare on drawn flowers, in minutes
# make test         style, types and all quick tests
# make bench        the speed of heatmaps, side by side with the grad-cam package
# Each installs what it needs into .venv first. PYTHON=python3.12 make ... chooses another interpreter.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: quickstart test bench clean

quickstart: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/quickstart.sh

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

bench: $(INSTALLED)
	$(BIN)/python benchmarks/gradcam_speed.py

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv outputs
