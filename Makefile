# `make help` lists what there is. Works with GNU make 3.81 and later (Linux, macOS).
PYTHON ?= python3
PROFILE ?= fast

BIN := .venv/bin
READY := .venv/.ready
SITE := build/book/_build/html
PROSE := $(shell find book _config.yml -type f -not -name '*.py' -not -path '*/__pycache__/*') $(wildcard book/extension/*.py) $(addprefix book/,address.py instructor.py lesson.py lighter.py play_stored.py published.py slides.py status.py student.py) $(wildcard notebooks/class/*.py)
PACKAGE := $(shell find src results -type f -not -path '*/__pycache__/*')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help book test test-slow check-machines check-notebooks check-site check-again check-student check-colab check-binder rehearsal sphinx check-all screenshots slides pdf student notebooks play bench lint types lock serve clean force

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile
	@echo "Variables: PYTHON=python3.12 (which Python makes .venv), PROFILE=fast|laptop|paper (how much 'make book' computes)"

book: $(SITE)/index.html  ## execute the notebooks and build the site: the first command to try
	@echo "The book is at $(CURDIR)/$(SITE)/index.html"

test: lint types  ## lint, types and tests, two files at a time
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

test-slow: $(READY)  ## the tests that need the real data or minutes
	$(BIN)/pytest -m "slow and not site"

# Rounding depends on a processor's instructions, which PyTorch, oneDNN and MKL can be told not to use, and on threads.
MACHINES := sse avx2 native
THREADS := 1 2
sse := ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE
avx2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2
native :=

check-machines: $(MACHINES:%=check-machine-%)  ## the tests as other processors compute them, with one and with two threads

# A data folder of its own: networks trained with other rounding are other networks.
check-machine-%: $(READY)
	@for threads in $(THREADS); do \
	  echo "As $* with $$threads threads: $($*)"; \
	  env $($*) OMP_NUM_THREADS=$$threads FRAGILITY_DATA=$(CURDIR)/build/machines/$*-$$threads $(BIN)/pytest $(TESTS) || exit 1; \
	done

check-notebooks: build/executed/.done  ## run the executed notebooks once more and compare the cells tagged nbval-check-output
	OMP_NUM_THREADS=1 $(BIN)/pytest --nbval-lax --nbval-current-env -W default -p no:cacheprovider build/executed

check-site: $(SITE)/index.html  ## read the built site in a headless Chromium
	SITE=$(SITE) $(BIN)/pytest -m "site and not slow"

screenshots: $(SITE)/index.html  ## every page, desktop and phone, light and dark, into build/screenshots
	$(BIN)/python book/browser.py $(SITE) build/screenshots

check-again: build/executed/.done  ## execute all notebooks a second time: the pages have to be the same, byte by byte
	@rm -rf build/again
	$(BIN)/python book/pages.py execute -p profile $(PROFILE) --output build/again
	@for page in build/executed/*.ipynb; do cmp $$page build/again/$${page##*/} || exit 1; done
	@echo "Byte by byte the same: $$(ls build/executed/*.ipynb | wc -l) notebooks"

check-student: $(READY)  ## execute the students' notebooks: they have to run past the gaps
	$(BIN)/python book/student.py build/student-executed --execute

check-colab: $(READY)  ## execute the last commit's notebooks in an environment like Colab's
	$(BIN)/python book/colab.py build/colab

check-binder: $(READY)  ## install the last commit as Binder does, in a folder of its own, and execute a chapter there
	@rm -rf build/binder && mkdir -p build/binder
	git clone --quiet . build/binder/repository
	$(PYTHON) -m venv build/binder/environment
	cd build/binder/repository && ../environment/bin/python -m pip install --quiet -r .binder/requirements.txt nbclient
	cd build/binder/repository/notebooks && ../../environment/bin/jupyter-execute 07_errata.ipynb

rehearsal: build/executed/.done  ## build the last commit's site for another address and follow all of its links
	$(BIN)/python book/rehearsal.py build/rehearsal

sphinx: $(SITE)/index.html  ## the way out of Jupyter Book: the site by plain Sphinx, from a generated conf.py, into build/sphinx
	@$(BIN)/jupyter-book config sphinx $(CURDIR)/build/book --config $(CURDIR)/build/book/_config.yml --toc $(CURDIR)/build/book/book/_toc.yml
	PYTHONPATH=build/book/book:build/book/book/extension $(BIN)/python -m sphinx -q --keep-going -b html build/book build/sphinx

check-all: $(SITE)/index.html check-again check-notebooks check-student check-colab check-machines  ## everything that takes long: the three above, nbval, other processors, axe-core on every page
	SITE=$(SITE) $(BIN)/pytest -m site

student: $(READY)  ## the notebooks without solutions, into build/student
	$(BIN)/python book/student.py build/student

slides: build/executed/.done  ## slides from the notebooks' figures, one file that needs nothing else: build/slides.html
	$(BIN)/python book/slides.py build/executed build/slides.html

pdf: $(SITE)/index.html  ## the book as one PDF, printed by Chromium: build/fragility.pdf
	$(BIN)/python book/pdf.py $(SITE) build/fragility.pdf

notebooks: $(READY)  ## execute again and refresh the committed pages (only one: NOTEBOOK=01_methods)
	$(BIN)/python book/pages.py refresh $(NOTEBOOK)

play: $(READY)  ## compute the pieces to touch again, half an hour (only one: PIECE=digit)
	$(BIN)/python book/play.py $(PIECE)

bench: $(READY)  ## measure how fast everything is, store it and write the page book/speed.md (more: BENCH="--strict")
	$(BIN)/python -m benchmarks.run $(BENCH)

lint: $(READY)  ## style, docstrings, formatting, and the floors of the package
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/lint-imports --no-cache

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

lock:  ## pin again after a change of pyproject.toml (needs uv); pins that still fit stay
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url -o requirements.lock

serve: $(SITE)/index.html  ## look at the book under http://localhost:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(SITE) 8000

clean:  ## remove what was built, .venv included
	rm -rf build dist .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml requirements.lock
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) was not found: install Python 3.11 or newer, or name one: make book PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "Python 3.11 or newer is needed, $(PYTHON) is %d.%d. Name another: make book PYTHON=python3.12" % v[:2])'
	@echo "Installing the pinned packages into .venv (once; PyTorch makes it a few minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --editable .
	@touch $@

# The pages of the site are executed copies, kept apart from the committed ones.
build/executed/.done: $(READY) build/profile $(wildcard notebooks/*.py) $(PACKAGE) book/pages.py
	@echo "Executing the notebooks (profile $(PROFILE))"
	@rm -rf build/executed
	@$(BIN)/python book/pages.py execute -p profile $(PROFILE) --output build/executed
	@touch $@

# Pages executed with other instructions are other pages: nothing would compare with them.
build/profile: force
	@mkdir -p build
	@echo $(PROFILE) $(ONEDNN_MAX_CPU_ISA) $(ATEN_CPU_CAPABILITY) | cmp -s - $@ || echo $(PROFILE) $(ONEDNN_MAX_CPU_ISA) $(ATEN_CPU_CAPABILITY) > $@

$(SITE)/index.html: build/executed/.done $(PROSE)
	@echo "Building the site"
	@rm -rf build/book
	@mkdir -p build/book/notebooks
	@cp -R _config.yml book build/book
	@cp build/executed/*.ipynb build/book/notebooks
	@$(BIN)/python book/pages.py lighten build/book/notebooks
	@$(BIN)/python book/status.py build/executed build/book/book/status.md
	@mkdir build/book/book/_static/downloads
	@$(BIN)/python book/play_stored.py build/book/book/_static/play
	@$(BIN)/python book/slides.py build/book/notebooks build/book/book/_static/downloads/slides.html > build/site.log
	@$(BIN)/python book/lesson.py build/book/notebooks build/book/book/_static/downloads
	@$(BIN)/python book/instructor.py build/book/notebooks build/book/book/instructor
	@rm -rf build/student
	@$(BIN)/python book/student.py build/student > build/site.log
	@$(BIN)/python -m zipfile -c build/book/book/_static/downloads/notebooks.zip build/student/*.ipynb
	@cd build/book && ../../$(BIN)/jupyter-book build . --toc book/_toc.yml -W -n --keep-going --quiet > ../site.log || { cat ../site.log; exit 1; }
