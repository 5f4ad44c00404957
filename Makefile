# make quickstart   train, explain and compare on drawn flowers, in minutes
# make test         style, types and all quick tests
# make test-long    all tests of faults (kills, full disks, damaged files, attacks, leaks), then the long ones of the rest
# make test-oldest  the tests of the command line with the oldest hydra and omegaconf that are allowed
# make lock         requirements-dev.lock: the exact versions of today, for pip-audit
# make bench FOLDER=IMAGES   the speed of training and of heatmaps, side by side with what people use instead
# Each installs what it needs into .venv first. PYTHON=python3.12 make ... chooses another interpreter.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
OLDEST := hydra-core==1.3.7 omegaconf==2.3.0

.PHONY: quickstart test test-long test-oldest lock bench clean

quickstart: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/quickstart.sh

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile

test-long: $(INSTALLED)
	$(BIN)/pytest -m "long or not long" --durations=10 tests/faults
	$(BIN)/pytest -m long --durations=10 --ignore=tests/faults

test-oldest: $(INSTALLED)
	$(BIN)/pip install --quiet --upgrade --no-deps --target .venv/oldest $(OLDEST)
	PYTHONPATH=.venv/oldest $(BIN)/pytest tests/cli/test_cli.py tests/test_dependencies.py tests/faults/test_settings.py

lock: $(INSTALLED)
	$(BIN)/python scripts/lock.py > requirements-dev.lock

bench: $(INSTALLED)
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/gradcam_speed.py
	$(BIN)/python benchmarks/training_speed.py --folder $(FOLDER) --output training_speed.json
	$(BIN)/python benchmarks/training_table.py training_speed.json --plot training_speed.png

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv outputs
