# Every target does its own set-up: `make train` and `make test` work in a bare clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
CONSTRAINTS ?= constraints.txt
# uv where it is installed, unless pip was told where packages come from, which uv does not read; UV= uses pip
SOURCES := ^(PIP_|[a-z:]+\.)[a-z_-]*(index|links|cert|proxy|host|constraint)
UV ?= $(eval UV := $(shell { $(PYTHON) -m pip config list; env; } 2>/dev/null | grep -qiE '$(SOURCES)' || command -v uv))$(UV)
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile
INSTALL = $(if $(UV),$(UV) pip install --python $(BIN)/python,$(PIP)) $(addprefix --constraint ,$(CONSTRAINTS)) --editable
PINS = import json, sys; \
	parts = [part["metadata"] for part in json.load(open(sys.argv[1]))["install"]]; \
	pins = {part["name"].lower() + "==" + part["version"].partition("+")[0] for part in parts if part["name"] != "vae_lab"}; \
	print(*sorted(pins), sep="\n")

.DEFAULT_GOAL := help
.PHONY: help train paintings test slow lint types fix bench gpu gpu-wheels cluster lock clean

# the stages of experiment=monet64_paintings, shortened
SHORTENED := task.stages.decoder.steps=1400 task.stages.encoder.steps=400 trainer.max_steps=2200

# what a machine with torch may lack to run vae_lab, all of it Python alone
GPU_PACKAGES := "hydra-core<1.4" "omegaconf<2.4" "antlr4-python3-runtime==4.9.*" "lightning<2.7,!=2.6.2,!=2.6.3" \
	lightning-utilities torchmetrics jaxtyping wadler-lindig beartype rich markdown-it-py mdurl pygments joblib \
	threadpoolctl jinja2 fsspec packaging tqdm typing-extensions

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 12

train: $(VENV)/train ## Train on the bundled digits; ARGS="data=mnist model.nlatent=16" changes what
	$(BIN)/python -m vae_lab.train $(ARGS)

paintings: $(VENV)/paintings ## Download Monet's paintings and train on them, in half an hour; ARGS="data.root=<folder>" uses your copy
	$(BIN)/python -m vae_lab.train experiment=monet64_paintings $(if $(findstring data.root=,$(ARGS)),,data.download=true) $(SHORTENED) $(ARGS)

test: $(VENV)/dev ## Run the tests, in two workers; ARGS goes to pytest, as in ARGS="-n 0 -k resume"
	$(BIN)/python -m pytest $(ARGS)

slow: $(VENV)/dev ## Run the tests that take minutes
	$(BIN)/python -m pytest -n 0 -m slow $(ARGS)

lint: $(VENV)/dev ## Check style and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/dev ## Check types
	$(BIN)/pyright --pythonpath $(BIN)/python

fix: $(VENV)/dev ## Repair what ruff can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/bench ## Measure training against other loops, the likelihood against bare decoding, and a report of 100 runs
	$(BIN)/python -m benchmarks.step $(ARGS)
	$(BIN)/python -m benchmarks.likelihood
	$(BIN)/python -m benchmarks.detection
	$(BIN)/python -m benchmarks.report
	$(BIN)/python -m benchmarks.transposed

gpu: ## Check and time everything on a GPU, in four minutes, with PYTHON's own torch; see docs/gpu.md
	rm -rf .gpu/unpacked
	for wheel in .gpu/*.whl; do test ! -f "$$wheel" || $(PYTHON) -m zipfile -e "$$wheel" .gpu/unpacked || exit; done
	PYTHONPATH="$(CURDIR):$(CURDIR)/.gpu/unpacked$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) -m benchmarks.gpu $(ARGS)

gpu-wheels: ## Put what a machine with a GPU may lack for that into .gpu/, which is to be taken along
	rm -rf .gpu
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir .gpu \
		$(addprefix --constraint ,$(wildcard $(CONSTRAINTS))) $(GPU_PACKAGES)

cluster: $(VENV)/dev ## Run sweeps on a Slurm of one node, this machine (root; Debian's slurmctld slurmd slurm-client munge)
	tests/cluster/with_slurm.sh $(BIN)/python -m pytest -n 0 -m slow tests/cluster $(ARGS)

lock: $(VENV)/train ## Write the newest versions that pyproject.toml admits to constraints.txt; then make test installs them
	$(PIP) --quiet --dry-run --ignore-installed --report $(VENV)/lock.json --editable '.[dev]'
	$(BIN)/python -c '$(PINS)' $(VENV)/lock.json > $(VENV)/pins.txt
	mv $(VENV)/pins.txt constraints.txt

clean: ## Remove the environment and the caches; outputs/ and data/ stay
	rm -rf $(VENV) dist .gpu .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Install vae_lab with the extras of a target, in the versions that the tests passed with; CONSTRAINTS= takes the newest
# that pyproject.toml admits. Packages are compiled when they are first imported: all of them would take a minute.
define SET_UP
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || printf '%s\n' "Installing into $(VENV) with $(if $(UV),uv,pip), in 2 to 10 minutes." \
		"On Linux PyTorch brings CUDA: 3.2 GB to download, 6 GB on disk. Without a GPU, 0.4 GB should be enough:" \
		"$(if $(UV),UV_TORCH_BACKEND=cpu,PIP_EXTRA_INDEX_URL=<the index of CPU builds that pytorch.org names>) make train"
	test -x $(BIN)/python || $(if $(UV),$(UV) venv --seed --python $(PYTHON),$(PYTHON) -m venv) $(VENV)
	$(INSTALL) '.$(EXTRAS)' || { echo "see the error above (6 GB of disk, a network); if versions conflict, make CONSTRAINTS= takes others"; exit 1; }
	touch $@ $(VENV)/train
endef

$(VENV)/paintings: EXTRAS := [pretrained]
$(VENV)/dev: EXTRAS := [dev]
$(VENV)/train $(VENV)/paintings $(VENV)/dev: pyproject.toml $(CONSTRAINTS)
	$(SET_UP)

$(VENV)/bench: $(VENV)/train
	$(INSTALL) '.[bench]' || echo "pythae cannot be installed here; the benchmark says so"
	touch $@
