# make demo   from nothing: environment, pinned torch, compiled kernels, then four codecs compared on a photograph
# make test   everything that CI runs: examples in docstrings, four lanes of kernel tests, oracles, packaging, lint, types
# make test-all   and every case of the tests that otherwise take turns at them
# make clean  removes the environment and everything built
#
# PYTHON=python3.12 and VENV=/elsewhere choose another interpreter and place.

PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin/python
# Python compiles what it imports; pip would compile everything, which took most of a minute.
PIP    := $(RUN) -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

# Oracles for tests only. Without their own dependencies: timm and kornia would ask for far more than is used here, and
# torchvision's compiled extension, which torchmetrics and piq import, does not load beside CPU torch: tests mend that.
ORACLES := timm kornia kornia-rs torchvision lpips tqdm torchmetrics lightning-utilities piq \
    transformers huggingface-hub tokenizers regex requests urllib3 idna certifi charset-normalizer

.PHONY: demo test test-all clean

demo: $(VENV)/.built
	$(RUN) -m fastiqa.info
	$(RUN) examples/compare_codecs.py demo

test: export FASTIQA_NATIVE ?= 1
test: $(VENV)/.built $(VENV)/.oracles
	$(RUN) -m pytest --doctest-modules fastiqa --ignore fastiqa/metrics/torchmetrics.py
	$(RUN) -m pytest --numprocesses 2 tests

test-all: export FASTIQA_TESTS = all
test-all: test

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
	$(PIP) --no-build-isolation --editable '.[triton,cli,bench,test]'
	touch $@

$(VENV)/.oracles: $(VENV)/.built
	$(PIP) --no-deps $(ORACLES)
	touch $@
