# make quickstart   train, explain and compare on drawn flowers, in minutes
# make test         style, types and all quick tests
# make test-long    the tests of faults in full: kills, full disks, damaged files, attacks, leaks
# make bench        the speed of heatmaps, side by side with the grad-cam package
# Each installs what it needs into .venv first. PYTHON=python3.12 make ... chooses another interpreter.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: quickstart test test-long bench clean

quickstart: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/quickstart.sh

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

test-long: $(INSTALLED)
	$(BIN)/pytest -m long --durations=10

bench: $(INSTALLED)
	$(BIN)/python benchmarks/gradcam_speed.py

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv outputs
