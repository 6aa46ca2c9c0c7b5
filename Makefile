# Everything a fresh machine needs, in two commands: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
MODEL := models/SmolLM2-135M-Instruct
export DAGSTER_HOME ?= $(CURDIR)/.dagster_home
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

PIP_AUDIT := 2.10.1
FAULTS ?= --boundaries --trials 110 --signals 44 --seed 7

.PHONY: audit bench bench-platform clean demo docs fonts fuzz install lint model schemas screenshots serve-docs test test-faults test-harness \
  test-platform test-wheel ui validate

demo: model ## measure the demo's model, phase by phase
	$(BIN)/python -m avalanche_llm phase0_validate_env --config configs/demo.yaml
	$(BIN)/python -m avalanche_llm run_all --config configs/demo.yaml

test: model lint ## lint, types and every test
	$(BIN)/python -m pytest

test-platform: $(VENV)/.platform ## Ray, Postgres and the web UI in a browser; as root on Debian it installs Chromium, Postgres, iproute2
	$(BIN)/python tests/platform/needs.py
	$(BIN)/python -m pytest tests/platform -n 0 -rs

test-harness: model ## log-probabilities of choices against lm-evaluation-harness, in a folder of its own
	test -d build/harness/lm_eval || $(PIP) --no-deps --target build/harness --requirement requirements-harness.lock
	PYTHONPATH=build/harness $(BIN)/python -m pytest tests/test_lm_eval.py -n 0 -rs

test-faults: install ## kills and signals in every phase, races of real processes; FAULTS="--trials 200 --seed 7" for other counts
	cd tests && PYTHONPATH=. ../$(BIN)/python -m faults.campaign $(FAULTS)
	$(BIN)/python -m pytest tests/faults -n 0 -rs

bench-platform: model ## what the platform costs, phase by phase and of the demo; writes the table of docs/platform.md
	PYTHONPATH=.:tests $(BIN)/python bench/overhead.py --into docs/platform.md

screenshots: $(VENV)/.platform ## the pictures of docs/screenshots
	SCREENSHOTS=docs/screenshots $(BIN)/python -m pytest tests/platform/test_ui.py -n 0 -rs

$(VENV)/.platform: $(VENV)/.installed requirements-platform.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-platform.lock
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy avalanche_llm avalanche_dagster

install: $(VENV)/.installed

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
HASHED := $(PIP) --require-hashes --no-deps --only-binary :all:

$(VENV)/.installed: requirements.lock requirements-cpu.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(HASHED) --requirement requirements-cpu.lock 2> /dev/null || echo "no CPU build of torch on this index: taking the one that it has"
	$(HASHED) --requirement requirements.lock
	$(BIN)/python -m pip check > /dev/null || $(PIP) torch==2.13.0 # the libraries that a CUDA build asks for, by its own exact pins
	$(PIP) --no-deps --no-build-isolation --editable .
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

FUZZ_SECONDS ?= 600
FUZZ_CORPUS ?= build/fuzz

fuzz: install ## coverage-guided fuzzing of five readers, FUZZ_SECONDS each; findings in FUZZ_CORPUS/findings
	$(PIP) --no-deps atheris==3.0.0
	for target in config record npz parquet questions; do \
	  $(BIN)/python tests/fuzz $$target --seconds $(FUZZ_SECONDS) --corpus $(FUZZ_CORPUS) || exit 1; done

audit: ## known vulnerabilities of what the lock pins (needs the vulnerability service that pip-audit asks)
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==$(PIP_AUDIT)
	$(VENV)-audit/bin/pip-audit --disable-pip --require-hashes --requirement requirements.lock

docs: $(VENV)-docs/.installed ## the documentation as a site, links checked; loads nothing from elsewhere
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict --quiet

serve-docs: $(VENV)-docs/.installed
	$(VENV)-docs/bin/mkdocs serve --dev-addr 127.0.0.1:8000

$(VENV)-docs/.installed: requirements-docs.lock
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-docs.lock
	touch $@

schemas: install ## docs/schemas.md from the code and a complete measurement of the tests' model
	WRITE_SCHEMAS=1 $(BIN)/python -m pytest tests/test_docs.py -n 0 -k schema_page_is

fonts: install ## the font of figures, cut anew from the one that matplotlib ships
	PYTHONPATH=. $(BIN)/python tests/figure_fonts.py

test-wheel: model ## the wheel in an environment and a folder of its own: the demo, from nothing else
	PYTHON=$(PYTHON) bash tests/wheel.sh $(MODEL)

clean: ## remove the environment (runs and models stay)
	rm -rf $(VENV)
