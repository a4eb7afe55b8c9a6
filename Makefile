define HELP
make demo       train the heuristic baseline and OHEM on a small drawn data set, compare them
make test       run the fast tests (TESTS=tests/mining for some of them)
make test-all   run every test
make torture    hostile files, faults and long runs
make lint       check style and types
make docs       build the documentation, docs/_build/html
make gpu        test and measure on the GPU: PARTS (default "1 2 3") of nine minutes, each with its archive
make wheels     gather in wheels/ what `make gpu WHEELS=wheels` installs where there is PyTorch and no index
make install    only create and fill the environment
make clean      remove the environment and the caches that make made
make help       print this

The first call creates an environment and installs what is needed (6.0 GB with the CUDA build
of torch); later calls install nothing.
Variables, for example `make test VENV=/tmp/venv`; all can be set in the shell as well:

PYTHON=python3  the Python (3.10 or newer) that the environment is made from
VENV=.venv      the environment; make uses only one that it made itself
WORKERS=2       processes that run the tests
DETECTRON2=     which Detectron2; the environment remembers it, so that it is given once:
                  empty       0.6 without its compiled extension, built by tools/install_detectron2.py
                  installed   the one that PYTHON has, with its torch. That environment is only read: the
                              packages it lacks go to VENV and nothing in it is replaced
                  path, URL   what pip takes: a checkout, a wheel, git+https://...; built against the torch
                              of constraints.txt
endef

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
TESTS ?= tests

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet
PACKAGE := --editable '.[dev,proposals]'
PYTEST := $(PY) -m pytest -n $(WORKERS) --dist worksteal

# The steps of an environment leave a file each, in this order, so that an interrupted one is taken up again.
MADE := $(VENV)/.made-by-make
CREATED := $(VENV)/.created
INSTALLED := $(VENV)/.installed

ifeq ($(origin DETECTRON2),undefined)
DETECTRON2 := $(shell cat $(MADE) 2>/dev/null)
endif
# An existing path becomes absolute: pip would take the bare name of a folder for that of a package.
override DETECTRON2 := $(or $(realpath $(DETECTRON2)),$(DETECTRON2))
KIND := $(if $(DETECTRON2),$(if $(filter installed,$(DETECTRON2)),installed,given),built)

# One thread a process: on two cores the default number is many times slower.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all torture lint docs gpu wheels clean check

help:
	@:$(info $(HELP))

install: $(INSTALLED)

demo: $(INSTALLED)
	$(PY) tools/demo.py

test: $(INSTALLED)
	$(PYTEST) -m "not slow" $(TESTS)

test-all: $(INSTALLED)
	$(PYTEST) $(TESTS)

torture: $(INSTALLED)
	$(PYTEST) --torture tests/torture

lint: $(INSTALLED)
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

docs: $(INSTALLED)
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html

# With WHEELS, PYTHON runs it as it is: no environment is made and no index is asked.
gpu: $(if $(WHEELS),,$(INSTALLED))
	$(if $(WHEELS),$(PYTHON),$(PY)) tools/gpu_day.py $(PARTS) $(WHEELS:%=--wheels %) $(OUT:%=--archives %)

wheels: $(INSTALLED)
	$(PY) tools/build_wheels.py wheels

clean:
	@test ! -e $(MADE) || rm -rf $(VENV)
	@rm -rf build docs/_build ohem_d2.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	@find ohem_d2 tests tools datasets benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

fail = { echo "make: $(1)" >&2; exit 1; }

check:
	@test ! -e $(VENV) || test -e $(MADE) \
	    || $(call fail,$(VENV) was not made by make and is left alone: pass VENV=a-new-folder)
	@test ! -e $(MADE) || test "$$(cat $(MADE))" = '$(DETECTRON2)' \
	    || $(call fail,$(VENV) has another Detectron2 (DETECTRON2='$$(cat $(MADE))'): \
	        pass another VENV or run make clean first)

$(CREATED): | check
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	    || $(call fail,Python 3.10 or newer is needed: pass PYTHON=)
	@$(check-$(KIND))
	@mkdir -p $(VENV) && echo '$(DETECTRON2)' > $(MADE)
	@$(PYTHON) -m venv $(VENV) $(venv-options-$(KIND))
	@$(join-$(KIND))
	@touch $@

$(INSTALLED): setup.py pyproject.toml constraints.txt tools/install_detectron2.py tools/detectron2_patches.py \
    | check $(CREATED)
	@echo "Installing what is needed into $(VENV); the first time this takes some minutes"
	@$(install-$(KIND))
	@touch $@
	@echo "Installed"

# ---- Detectron2 built here, or given as a path or URL: everything pinned

PINNED = $(INSTALL) --constraint constraints.txt
DEPENDENCIES = $(PINNED) pip setuptools wheel \
    && $(PINNED) --build-constraint constraints.txt $(PACKAGE)

install-built = $(DEPENDENCIES) && $(PY) tools/install_detectron2.py --constraint constraints.txt
install-given = $(DEPENDENCIES) && $(PINNED) --no-build-isolation '$(DETECTRON2)'

# ---- Detectron2 of PYTHON: VENV lies on top of that environment, whose packages stay what they are

check-installed = $(PYTHON) -c 'import pip, torch, detectron2' 2>/dev/null \
    || $(call fail,$(PYTHON) cannot import torch$(comma) detectron2 and pip: pass the PYTHON that has them)
comma := ,

# The pip and setuptools of PYTHON serve here too: older ones on top could be too old for its packages.
venv-options-installed := --without-pip

# A venv of a venv would see the system's packages only; a .pth file adds those of PYTHON, editable ones too.
SITES := import site; \
    folders = site.getsitepackages() + [site.getusersitepackages()] * bool(site.ENABLE_USER_SITE); \
    print("import site;", *(f"site.addsitedir({folder!r});" for folder in folders))
join-installed = $(PYTHON) -c '$(SITES)' \
    > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/user-environment.pth"

PRESENT := $(VENV)/.present.txt
install-installed = $(PIP) list --format=freeze | grep -E '^[A-Za-z0-9._-]+==[0-9][^ ]*$$' > $(PRESENT) \
    && $(INSTALL) --constraint $(PRESENT) $(PACKAGE)
