# make run    install, start on embedded defaults, load a sample and stay up
# make test   install and run every test
# make check  what CI runs: format, lint, types, and every test but the extended ones
# make fuzz   many more made-up requests than CI sends, other ones each time
# make soak   everything at once, with kills, for half an hour (SOAK_SECONDS, SOAK_SEED)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A file's tests share their services, so they stay together; the long files come first.
TESTS := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: install run test check format fuzz soak bench clean

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
	$(TESTS) -m 'not extended'

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: install
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-2000} $(BIN)/python -m pytest tests/contract/test_schemathesis.py

soak: install
	SOAK_SECONDS=$${SOAK_SECONDS:-1800} $(BIN)/python -m pytest tests/soak/test_everything_at_once.py \
		-o log_cli=true -o log_cli_format='%(asctime)s %(message)s'

bench: install
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) dist build
