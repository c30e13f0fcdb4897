# make demo   sets everything up, looks at the sample photographs and leaves demo/index.html
# make test   sets everything up and runs the tests
# make docs   sets everything up and leaves the guide in build/docs
# make bench  sets everything up and measures Beholder against what one would pick instead; takes half an hour

PYTHON ?= python3
VENV := .venv
TORCH := 2.13.0
CPU_WHEELS := https://download.pytorch.org/whl/cpu
UV := 0.13.9

.PHONY: demo test bench lint docs links lock audit clean

demo: $(VENV)/installed
	$(VENV)/bin/python examples/demo.py

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest

bench: $(VENV)/installed
	$(VENV)/bin/python benchmarks/bench.py

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

docs: $(VENV)/installed docs/drawn/finished
	$(VENV)/bin/python -m sphinx --quiet --fail-on-warning --keep-going -d build/doctrees docs build/docs
	$(VENV)/bin/python docs/check_links.py build/docs

# The figures show what mini makes of photographs, so they are drawn anew when either or a script changes.
docs/drawn/finished: $(wildcard docs/figures/*.py demo/photographs/* src/beholder/weights/mini_*/*) | $(VENV)/installed
	$(VENV)/bin/python docs/figures/draw.py
	touch $@

# Links to other sites, too; needs a network.
links: docs
	$(VENV)/bin/python -m sphinx --quiet -b linkcheck -d build/doctrees docs build/links

# Everything but torch is taken from requirements.lock, by version and SHA-256; without its dependencies, which the lock
# has, too. So nothing can pull in the CUDA build of torch, or torchvision, for which open_clip asks. torch's CPU build
# is another file on every system and comes from an index of its own, so it is named by its version alone.
$(VENV)/installed: pyproject.toml requirements.lock Makefile
	$(PYTHON) -m venv $(VENV)
	sed -n '/^pip==/,/[^\\]$$/p' requirements.lock > $(VENV)/pip.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --require-hashes --requirement $(VENV)/pip.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps "torch==$(TORCH)+cpu" || \
		$(VENV)/bin/python -m pip install --quiet --no-deps "torch==$(TORCH)" --index-url $(CPU_WHEELS)
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Brings the lock up to date with pyproject.toml, for Python 3.11 and newer on any system.
lock: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet "uv==$(UV)"
	mkdir -p build
	printf '%s\n' torch torchvision timm > build/left-out.txt
	$(VENV)/bin/uv pip compile pyproject.toml requirements.in --extra test --universal --python-version 3.11 \
		--generate-hashes --excludes build/left-out.txt --no-annotate --no-header --quiet \
		--output-file requirements.lock

# Does the lock hold anything with a known vulnerability? Needs the package index's list of them.
audit: $(VENV)/installed
	$(VENV)/bin/python .ci/audit.py requirements.lock

clean:
	rm -rf $(VENV)
