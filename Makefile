# Two commands are complete on a fresh machine (Python >= 3.11, make): `make book` and `make test`. `make help` lists the rest.
PYTHON ?= python3
# On Linux a plain torch brings several GB of CUDA packages. For the CPU build give the index that PyTorch's install page names:
#   make book TORCH_INDEX=<address>
TORCH_INDEX ?=
CHAPTER ?=
PART ?=
POST ?=
FORCE ?=
PORT ?= 8000

VENV := .venv
READY := $(VENV)/.ready
OLDEST := .venv-oldest
PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest
PIP := -m pip --disable-pip-version-check
# What a measurement is asked for: one chapter, all of them, or (neither) those that changed since their last result.
MEASURED = $(if $(CHAPTER),$(CHAPTER),$(if $(FORCE),--all))
NBVAL := --nbval --nbval-current-env --dist loadfile -n

# One thread and one hash seed: stored outputs are those of this environment.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export PYTHONHASHSEED ?= 0
export PYTHONUTF8 := 1
export JUPYTER_PLATFORM_DIRS := 1
# The list of fonts is the environment's own: the one in the home folder may name fonts that are gone.
export MPLCONFIGDIR := $(CURDIR)/$(VENV)/matplotlib
unexport MPLBACKEND

.DEFAULT_GOAL := help
.PHONY: help new check book pdf test lint chapters execute portable oldest properties mutate digits abuse surroundings bench bench-book bench-check release links serve notebook author lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The mark is written last: an interrupted installation is started afresh by the next command.
$(READY): requirements.txt requirements-hashed.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "kexue needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing). Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import shutil, sys; need = 3000 if "$(TORCH_INDEX)" or sys.platform != "linux" else 8000; \
	  free = shutil.disk_usage(".").free >> 20; free >= need or "$(wildcard $(READY))" or \
	  sys.exit(f"{free} MB of disk are free here and the environment needs about {need} (3000 with TORCH_INDEX, see README.md)")'
	@if test -d $(VENV) && ! test -f $(READY); then \
	  test -f $(VENV)/.kexue || { echo "$(VENV) exists and was not made by this Makefile: move it away first"; exit 1; }; \
	  echo "Discarding a half-finished environment ..."; rm -rf $(VENV); fi
	@rm -f $(READY)
	@echo "Creating the environment in $(VENV) ..."
	@mkdir -p $(VENV) && touch $(VENV)/.kexue
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python could not create an environment; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Installing the exact versions of requirements.txt ..."
	$(PY) $(PIP) install --progress-bar on --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep '^torch==' requirements.txt)
	$(PY) $(PIP) install --progress-bar on --no-deps --require-hashes -r requirements-hashed.txt
	$(PY) $(PIP) install --progress-bar on --no-build-isolation --editable .
	@$(PY) -c "import matplotlib.font_manager"
	@touch $(READY)

new: $(READY) ## lay out the files of a post (POST=part/slug): chapter, module, tests, valid calls, benchmarks
	@$(PY) -m book_tools new "$(POST)"

check: $(READY) ## prove one chapter alone (CHAPTER=part/slug): form, style, every cell, its tests, its page in the browser
	@$(PY) -m book_tools check "$(CHAPTER)"

book: $(READY) ## build the book into _build/html (CHAPTER=part/slug: renew that page only)
	@$(PY) -m book_tools build $(CHAPTER)

pdf: $(READY) ## print the book into _build/kexue.pdf (PART=part or CHAPTER=part/slug: that alone; needs Chromium and a CJK font)
	@$(PY) -m book_tools build
	@$(PY) -m book_tools pdf $(or $(CHAPTER),$(PART))

test: lint ## prove everything: style, types, unit tests, all chapters, the built book
	@rm -rf _build/stage
	@$(PY) -m book_tools build
	$(PYTEST) chapters tests $(NBVAL) 2
	@echo "All green: style, types, unit tests, every chapter re-executed, the book built without a warning and checked."

lint: $(READY)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m codespell_lib
	@$(PY) -m mypy

chapters: $(READY) ## re-execute the chapters and compare with what is stored (CHAPTER=part/slug for one)
	$(PYTEST) $(if $(CHAPTER),chapters/$(CHAPTER).ipynb,chapters) $(NBVAL) 2

execute: $(READY) ## re-run chapters and store their outputs (CHAPTER=part/slug for one)
	@$(PY) -m book_tools execute $(CHAPTER)

portable: $(READY) ## the chapters under other instruction sets and threads, those that changed (CHAPTER=part/slug, FORCE=1 for all)
	@$(PY) -m trials portable $(MEASURED)

# An environment of its own, made anew: what an earlier run left must not lend a version.
oldest: ## the unit tests with the oldest versions that pyproject.toml admits
	@rm -rf $(OLDEST)
	@$(PYTHON) -m venv $(OLDEST)
	@$(PYTHON) -m trials.versions oldest > $(OLDEST)/pins.txt
	$(if $(TORCH_INDEX),$(OLDEST)/bin/python $(PIP) install --index-url $(TORCH_INDEX) $$(grep '^torch==' $(OLDEST)/pins.txt))
	$(OLDEST)/bin/python $(PIP) install -r $(OLDEST)/pins.txt
	@$(OLDEST)/bin/python $(PIP) install --quiet --no-deps --no-build-isolation --editable .
	MPLCONFIGDIR=$(OLDEST)/matplotlib $(OLDEST)/bin/python -m pytest tests --ignore tests/book_tools --ignore tests/trials/test_surroundings.py -n 2 --junitxml $(OLDEST)/unit.xml
	@$(OLDEST)/bin/python -m trials.versions record "unit tests" $(OLDEST)/unit.xml

properties: $(READY) ## the property tests with 10,000 examples each (40 minutes)
	KEXUE_PROPERTIES=release $(PYTEST) tests -m hypothesis --hypothesis-show-statistics --junitxml $(VENV)/properties.xml
	@$(PY) -m trials.versions properties $(VENV)/properties.xml

mutate: $(READY) ## wrong equations against their checks, wrong code against its tests (CHAPTER, FORCE as above; minutes per chapter)
	@$(PY) -m trials mutate $(MEASURED)

digits: $(READY) ## how many further digits of each printed number would be safe (CHAPTER, FORCE)
	@$(PY) -m trials digits $(MEASURED)

abuse: $(READY) ## count the calls of the abuse sweep, which make test runs (CHAPTER, FORCE)
	@$(PY) -m trials abuse $(MEASURED)

surroundings: $(READY) ## build and execute without network, home or disk space, interrupted, in odd places (about 15 minutes)
	@$(PY) -m trials surroundings

bench: $(READY) ## measure the package against its peers (installs them: the extra "bench"; CHAPTER, FORCE)
	@$(PY) $(PIP) install --quiet --constraint requirements.txt --no-build-isolation --editable '.[bench]'
	@$(PY) -m benchmarks run $(MEASURED)

bench-book: $(READY) ## measure what the book costs to build, prove and print, with 5 and 35 chapters (a quarter of an hour)
	@$(PY) -m benchmarks book

bench-check: $(READY) ## name what became slower between two results, files or folders (OLD=... NEW=...)
	@$(PY) -m benchmarks check $(OLD) $(NEW)

release: ## everything that is tried and measured before a version is published, in turn (hours)
	.ci/release

links: $(READY) ## look whether the external links of the book are alive (needs the network)
	@$(PY) -m book_tools links

serve: book ## build and serve the book at http://localhost:8000 (PORT=...)
	$(PY) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

notebook: $(READY) ## read and try the chapters in JupyterLab: copies, in _build/notebooks
	@$(PY) -c 'import jupyterlab' 2>/dev/null || $(PY) $(PIP) install --quiet --constraint requirements.txt jupyterlab
	@$(PY) -m book_tools copies
	$(PY) -m jupyterlab _build/notebooks

author: $(READY) ## edit the chapters themselves in JupyterLab
	@$(PY) -c 'import jupyterlab' 2>/dev/null || $(PY) $(PIP) install --quiet --constraint requirements.txt jupyterlab
	$(PY) -m jupyterlab chapters

lock: $(READY) ## refresh requirements.txt and its hashes from pyproject.toml
	@$(PY) $(PIP) install --quiet --constraint requirements.txt uv
	@$(PY) -m uv pip compile pyproject.toml --extra book --universal --python-version 3.11 --upgrade --no-annotate --no-header \
	  --generate-hashes --quiet -o requirements-hashed.txt
	@$(PY) -m trials.versions lock

clean: ## remove everything that was built, the environment included
	rm -rf _build $(VENV) $(OLDEST) .pytest_cache .mypy_cache .ruff_cache .hypothesis pages/reference
