# Everything a bare machine with Python 3.10 to 3.13 and make needs; each target sets itself up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Small models run many times slower when idle OpenMP threads spin beside other work.
export OMP_WAIT_POLICY := PASSIVE
export TOKENIZERS_PARALLELISM := false
# Where Python is told to keep no bytecode, each process of the tests would compile the package and the tests anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-gpu check reproduce bench bench-gpu first-hour wheel site clean

$(VENV)/.ready: pyproject.toml pins.txt
	@echo "Setting up $(VENV): packages are fetched once, which may take minutes and shows nothing; 2 GiB in the end."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint pins.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/holdfast demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

# The tests marked `gpu`, on the accelerator that torch finds; where there is none they are skipped, and say so.
test-gpu: $(VENV)/.ready
	HOLDFAST_TEST_ACCELERATOR=1 $(BIN)/python -m pytest -m gpu -rs

check: $(VENV)/.ready
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

reproduce: $(VENV)/.ready
	for name in $$($(BIN)/python -c "from holdfast.lab.reproduce import CLAIMS; print(*CLAIMS)"); do \
	  $(BIN)/holdfast reproduce $$name || exit 1; done

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/run.py

bench-gpu: $(VENV)/.ready
	$(BIN)/python benchmarks/gpu.py

# What a newcomer does in the first hour, in a fresh directory and an environment of its own, with the time of each part.
first-hour: $(VENV)/.ready
	$(BIN)/python benchmarks/first_hour.py

# The package as others install it: sdist, the wheel built from that, and the wheel in an environment of its own, used
# from a directory that knows nothing of this one.
wheel:
	rm -rf dist build/wheel
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install --quiet --disable-pip-version-check build
	build/wheel/bin/python -m build --quiet --outdir dist .
	build/wheel/bin/pip install --quiet --disable-pip-version-check --constraint pins.txt dist/holdfast-*.whl
	programs="$$PWD/build/wheel/bin" && place="$$(mktemp -d)" && cd "$$place" && export PATH="$$programs:$$PATH" && \
	  holdfast train --model lab-small --data lab:program train.max_steps=2 evaluate.items=4 'evaluate.keep=[lab:sums]' \
	    output=run && \
	  echo "Write f that adds 2 to x." | holdfast chat run --once && holdfast list curators && rm -r "$$place"
	ls -l dist

# The documentation site, in build/site; its tools have an environment of their own.
site: $(VENV)/.ready
	rm -rf build/docs build/site
	$(BIN)/python docs/site.py build
	test -x build/site-tools/bin/mkdocs || $(PYTHON) -m venv build/site-tools
	build/site-tools/bin/pip install --quiet --disable-pip-version-check 'mkdocs-material>=9.6,<10'
	build/site-tools/bin/mkdocs build --quiet --strict --config-file build/mkdocs.yml

clean:
	rm -rf $(VENV) build dist runs
