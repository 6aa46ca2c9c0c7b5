# Everything a fresh machine needs, in two commands: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
MODEL := models/SmolLM2-135M-Instruct
export DAGSTER_HOME ?= $(CURDIR)/.dagster_home
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

FAULTS ?= --boundaries --trials 110 --signals 44 --seed 7

.PHONY: bench demo validate test test-faults test-platform screenshots test-fast lint model ui clean install

demo: model ## measure the demo's model, phase by phase
	$(BIN)/python -m avalanche_llm phase0_validate_env --config configs/demo.yaml
	$(BIN)/python -m avalanche_llm run_all --config configs/demo.yaml

test: model lint ## lint, types and every test
	$(BIN)/python -m pytest

test-platform: $(VENV)/.platform ## Ray, Postgres and the web UI in a browser (needs Chromium, Postgres, iproute2)
	$(BIN)/python -m pytest tests/platform -rs

test-faults: install ## kills and signals in every phase, races of real processes; FAULTS="--trials 200 --seed 7" for other counts
	cd tests && PYTHONPATH=. ../$(BIN)/python -m faults.campaign $(FAULTS)
	$(BIN)/python -m pytest tests/faults -rs

screenshots: $(VENV)/.platform ## the pictures of docs/screenshots
	SCREENSHOTS=docs/screenshots $(BIN)/python -m pytest tests/platform/test_ui.py -rs

$(VENV)/.platform: $(VENV)/.installed requirements-platform.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-platform.lock
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy avalanche_llm avalanche_dagster

install: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

model: install $(MODEL)/config.json

$(MODEL)/config.json:
	$(BIN)/python -m avalanche_llm.demo_model $(MODEL)

ui: install ## the Dagster web UI on loopback
	mkdir -p $(DAGSTER_HOME) && cp -n avalanche_dagster/dagster.yaml $(DAGSTER_HOME)/ || true
	$(BIN)/dagster dev --host 127.0.0.1 --workspace workspace.yaml

validate: install ## estimates against simulators of known truth; writes docs/validity.md
	$(BIN)/python -m avalanche_llm.validity

bench: model ## speed and memory on this machine, which should be idle; writes docs/performance.md
	$(BIN)/python -m bench

clean: ## remove the environment (runs and models stay)
	rm -rf $(VENV)
