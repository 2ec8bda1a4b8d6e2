# make run    install, start on embedded defaults, load a sample and stay up
# make test   install and run every test
# make check  what CI runs: format, lint, types, tests
# make fuzz   many more made-up requests than CI sends, other ones each time
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A file's tests share their services, so they stay together.
TESTS := $(BIN)/python -m pytest -n auto --dist loadfile

.PHONY: install run test check format fuzz bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

run: install
	$(BIN)/timestore dev

test: install
	$(TESTS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TESTS)

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: install
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-2000} $(BIN)/python -m pytest tests/contract/test_schemathesis.py

bench: install
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) dist build
