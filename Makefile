# make demo       set up, process the sample photographs, write demo/index.html
# make test       set up and run all tests, the fast ones first
# make test-fast  set up and run the tests that are not marked slow, in about two minutes
# make docs       set up and build the guide in build/docs
# make dist       set up and build a reproducible wheel and sdist in dist/
# make release    check everything that a release needs, write wheel, sdist and SBOM to dist/, and tag the commit
# make try-install  install the package as a user does, with uv and with pipx, use it, and remove it
# make share      set up and write man pages and shell completions to build/share
# make clients    install clients of the OpenAI API in an environment of their own, for the slow tests
# make bench      set up and compare Beholder with the libraries one would use instead; takes half an hour

PYTHON ?= python3
VENV := .venv
CLIENTS := .clients
TORCH := 2.13.0
CPU_WHEELS := https://download.pytorch.org/whl/cpu
UV := 0.13.9
# A process a core; one that has finished takes over tests of the other.
PYTEST = $(VENV)/bin/python -m pytest -n auto --dist worksteal
LOCK := requirements.lock
CACHE = $(or $(BEHOLDER_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/beholder)

.PHONY: demo test test-fast test-slow dist release try-install share clients bench lint docs catalogs links lock audit clean

demo: $(VENV)/installed
	$(VENV)/bin/python examples/demo.py

test: test-fast test-slow

test-fast: $(VENV)/installed
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/installed
	$(PYTEST) -m slow --durations=30

# Two builds of the same commit give the same bytes: the files are dated by the commit.
dist: $(VENV)/installed
	$(VENV)/bin/python packaging/distributions.py dist

# make release CHECKS="version changelog" runs these checks alone, and writes nothing.
release: $(VENV)/installed
	$(VENV)/bin/python packaging/release.py $(CHECKS)

# Install the wheel with uv and the sdist with pipx, use them and remove them, in the versions of the lock. What tests have
# downloaded and compiled is used again.
try-install: $(VENV)/installed
	rm -rf build/try && mkdir -p build/try
	$(VENV)/bin/python packaging/distributions.py build/try
	sed -n 's/^\([^ #]*==[^ ;]*\)\( ;[^\\]*\)\{0,1\} .*/\1\2/p' requirements.lock > build/try/constraints.txt
	$(VENV)/bin/python -m pip download --quiet --no-deps --dest build/try "torch==$(TORCH)+cpu" || \
		$(VENV)/bin/python -m pip download --quiet --no-deps --dest build/try "torch==$(TORCH)" --index-url $(CPU_WHEELS)
	mkdir -p "$(CACHE)"
	set -e; export TMPDIR=$(CURDIR)/build/try UV_CACHE_DIR=$(CURDIR)/build/try/uv; for way in "uv build/try/beholder-*.whl" "pipx build/try/beholder-*.tar.gz"; do \
		PYTHON=$(CURDIR)/$(VENV)/bin/python packaging/try_install.sh --torch build/try --constraints build/try/constraints.txt \
			--cache "$(CACHE)" $$way; done
	rm -r build/try

share: $(VENV)/installed
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(VENV)/bin/python packaging/share.py build/share

# Their versions exclude each other's and those of the lock, so they have an environment of their own.
clients: $(CLIENTS)/installed

# llama.cpp's server has wheels for some platforms only; the clients are installed without it elsewhere.
$(CLIENTS)/installed: tests/server/clients/requirements.txt tests/server/clients/llama_cpp.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --requirement $<
	-$(CLIENTS)/bin/python -m pip install --quiet --only-binary :all: --requirement tests/server/clients/llama_cpp.txt
	touch $@

bench: $(VENV)/installed
	$(VENV)/bin/python benchmarks/bench.py

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

docs: $(VENV)/installed docs/drawn/finished
	$(VENV)/bin/python -m sphinx --quiet --fail-on-warning --keep-going -d build/doctrees docs build/docs
	$(VENV)/bin/python -m sphinx --quiet --fail-on-warning --keep-going -d build/doctrees-zh -D language=zh_CN docs build/docs/zh
	$(VENV)/bin/python docs/check_links.py build/docs

# The figures show mini's outputs, so they are drawn again when the weights, the photographs or a script change.
docs/drawn/finished: $(wildcard docs/figures/*.py docs/tour* demo/photographs/* src/beholder/weights/mini_*/*) | $(VENV)/installed
	$(VENV)/bin/python docs/figures/draw.py
	touch $@

# Bring the catalogs of the Chinese guide up to date with the English pages; then translate what is new in docs/locale.
catalogs: $(VENV)/installed
	$(VENV)/bin/python -m sphinx --quiet -b gettext -d build/doctrees docs build/gettext
	$(VENV)/bin/sphinx-intl update -p build/gettext -d docs/locale -l zh_CN --no-obsolete -w 0
	cd docs/locale/zh_CN/LC_MESSAGES && rm -rf reference models benchmarks measured.po

# External links as well; needs network access.
links: docs
	$(VENV)/bin/python -m sphinx --quiet -b linkcheck -d build/doctrees docs build/links

# Everything but torch is installed from requirements.lock, pinned by version and SHA-256, with --no-deps: the lock lists
# all dependencies, so nothing can pull in the CUDA build of torch, or torchvision, which open_clip asks for. torch's CPU
# build is a different file on every system and comes from its own index, so it is pinned by version only.
$(VENV)/installed: pyproject.toml requirements.lock Makefile
	$(PYTHON) -m venv $(VENV)
	sed -n '/^pip==/,/[^\\]$$/p' requirements.lock > $(VENV)/pip.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --require-hashes --requirement $(VENV)/pip.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps "torch==$(TORCH)+cpu" || \
		$(VENV)/bin/python -m pip install --quiet --no-deps "torch==$(TORCH)" --index-url $(CPU_WHEELS)
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Update the lock from pyproject.toml, for Python 3.11 and newer on any system.
lock: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet "uv==$(UV)"
	mkdir -p build
	printf '%s\n' torch torchvision timm > build/left-out.txt
	$(VENV)/bin/uv pip compile pyproject.toml requirements.in --extra test --universal --python-version 3.11 \
		--generate-hashes --excludes build/left-out.txt --no-annotate --no-header --quiet \
		--output-file $(LOCK)

# Check the lock for known vulnerabilities; needs the package index's advisory database.
audit: $(VENV)/installed
	$(VENV)/bin/python .ci/audit.py requirements.lock

clean:
	rm -rf $(VENV)
