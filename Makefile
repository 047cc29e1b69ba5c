# make demo          from nothing: environment, pinned torch, compiled kernels, four codecs compared on a photograph
# make test          lint, examples in docstrings, and tests of everything: four lanes of operators, oracles, packaging
# make test-kernels  code for real GPUs by nvcc and Triton, sanitizers, far addresses, and the slow tests
# make test-all      both, and every case of the tests that otherwise take turns at them
# make lint          ruff, its format, mypy
# make docs          the documentation as a site, in build/site
# make clean         removes the environment and everything built
#
# PYTHON=python3.12 and VENV=/elsewhere choose another interpreter and place.

PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin/python
# Without --no-compile pip compiles every module, which took most of a minute; Python compiles those that it imports.
PIP    := $(RUN) -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

# Oracles, for tests only, without their own dependencies: timm and kornia would ask for far more than the tests use.
# torchvision's compiled extension, which torchmetrics and piq import, does not load beside CPU torch: the tests mend that.
ORACLES := timm kornia kornia-rs torchvision lpips tqdm torchmetrics lightning-utilities piq \
    transformers huggingface-hub tokenizers regex requests urllib3 idna certifi charset-normalizer

# What the extra `docs` has.
SITE := mkdocs mkdocs-material mkdocstrings-python

# Two processes start with the first and the second half of the tests, in the order of files, and then take tests from
# each other's end: a process that has built something keeps the tests that use it. Packaging comes first, training is at
# the end of the second half, and the many short tests of operators in the middle are the last to be shared out.
PYTEST := $(RUN) -m pytest --numprocesses 2 --dist worksteal --durations 30 --durations-min 5

# Until 0.2 the distribution was called fastiqa. Removed after the installation, it would take the command along.
IS_INSTALLED_AS_FASTIQA := $(RUN) -I -c "from importlib.metadata import distribution; from pathlib import Path; \
    assert Path.cwd().as_uri() + chr(34) in distribution('fastiqa').read_text('direct_url.json')" 2>/dev/null

HAS_NVCC := $(RUN) -c "import sys; sys.path[:0] = ['csrc']; import build; sys.exit(not build.find_nvcc())"

.PHONY: demo lint docs test test-kernels test-all clean

demo: $(VENV)/.built
	$(RUN) -m fastiqa.cli.info
	$(RUN) examples/compare_codecs.py demo

lint: $(VENV)/.built
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(VENV)/.site
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet

test test-kernels test-all: export FASTIQA_NATIVE ?= 1
test: lint $(VENV)/.oracles $(VENV)/.site
	PYTHONPATH=tests $(RUN) -c "from support import emulation; emulation.library()"  # by both cores, before tests wait for it
	$(RUN) -m pytest --doctest-modules fastiqa --ignore fastiqa/metrics/torchmetrics.py
	$(PYTEST) -m "not (kernels or slow)" tests

# Without nvcc the tests of the CUDA library are skipped, saying so.
test-kernels: $(VENV)/.oracles
	if $(HAS_NVCC); then FASTIQA_CUDA=1 $(RUN) setup.py --quiet build_ext --inplace; fi
	$(PYTEST) -m "kernels or slow" tests

test-all: export FASTIQA_TESTS = all
test-all: test test-kernels

clean:
	rm -rf $(VENV) build demo fastiqa/*.so *.egg-info

# torch comes first: the kernels are compiled against the one installed.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --upgrade pip setuptools wheel
	$(PIP) torch numpy
	touch $@

$(VENV)/.built: $(VENV)/.torch pyproject.toml setup.py csrc/build.py $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu')
	$(RUN) setup.py --quiet build_ext --inplace  # says what it compiles, which pip would keep to itself
	if $(IS_INSTALLED_AS_FASTIQA); then $(RUN) -m pip uninstall --quiet --yes fastiqa; fi
	$(PIP) --no-build-isolation --editable '.[triton,cli,weights,bench,test]'
	touch $@

$(VENV)/.oracles: $(VENV)/.built
	$(PIP) --no-deps $(ORACLES)
	touch $@

$(VENV)/.site: $(VENV)/.built
	$(PIP) $(SITE)
	touch $@
