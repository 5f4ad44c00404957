# make quickstart   train, explain and compare three networks on drawn flowers, in minutes
# make test         ruff, mypy and the quick tests, with branch coverage
# make test-long    all fault tests (kills, full disks, damaged files, attacks, leaks), then the other long tests
# make test-oldest  settings, help, advice and a multirun with the oldest supported hydra and omegaconf
# make docs         the documentation as a site in build/docs, with the API reference in build/docs/api
# make notebook     docs/tutorial.ipynb from docs/tutorial.md
# make lock         requirements-dev.lock: the versions that pip installs today, for pip-audit
# make bench FOLDER=IMAGES   speed of training and heatmaps, side by side with other libraries
# Each target installs what it needs into .venv first. PYTHON=python3.12 make ... selects another interpreter.

PYTHON ?= python3
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
INSTALLED := .venv/.installed
OLDEST := hydra-core==1.3.7 omegaconf==2.3.0

.PHONY: quickstart test test-long test-oldest docs notebook lock bench clean

quickstart: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/quickstart.sh

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile --cov --cov-report=
	@echo "branch coverage of src/deepbloom: $$($(BIN)/coverage report --format=total) %"

test-long: $(INSTALLED)
	$(BIN)/pytest -m "long or not long" --durations=10 tests/faults
	$(BIN)/pytest -m long --durations=10 --ignore=tests/faults

test-oldest: $(INSTALLED)
	$(BIN)/pip install --quiet --upgrade --no-deps --target .venv/oldest $(OLDEST)
	PYTHONPATH=.venv/oldest $(BIN)/pytest -n 2 --dist loadfile -m "hydra and not long"

docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict
	$(BIN)/python scripts/api_reference.py build/docs/api

notebook: $(INSTALLED)
	$(BIN)/python scripts/tutorial_notebook.py docs/tutorial.md docs/tutorial.ipynb

lock: $(INSTALLED)
	$(BIN)/python scripts/lock.py > requirements-dev.lock

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/gradcam_speed.py
	$(BIN)/python benchmarks/training_speed.py --folder $(FOLDER) --output training_speed.json
	$(BIN)/python benchmarks/training_table.py training_speed.json --plot training_speed.png

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build outputs .coverage
