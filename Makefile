# make demo   sets everything up, looks at the sample photographs and leaves demo/index.html
# make test   sets everything up and runs the tests

PYTHON ?= python3
VENV := .venv
TORCH := 2.13.0
CPU_WHEELS := https://download.pytorch.org/whl/cpu

.PHONY: demo test lint clean

demo: $(VENV)/installed
	$(VENV)/bin/python examples/demo.py

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# The CPU build of torch comes first, so that nothing after it pulls the CUDA build in. torchvision must stay out:
# open_clip asks for it, so it comes without its dependencies (the tests use its networks alone).
$(VENV)/installed: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade "pip>=24.1"
	$(VENV)/bin/python -m pip install --quiet "torch==$(TORCH)+cpu" || \
		$(VENV)/bin/python -m pip install --quiet "torch==$(TORCH)" --index-url $(CPU_WHEELS)
	$(VENV)/bin/python -m pip install --quiet --editable ".[test]"
	$(VENV)/bin/python -m pip install --quiet --no-deps open_clip_torch==3.3.0 efficientnet-lite-pytorch==0.1.0
	touch $@

clean:
	rm -rf $(VENV)
