# Builds, tests and sweeps the book. Needs make and Python 3.11 or newer; the rest goes into .venv.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
.PHONY: help book html test sweep clean data lint unit nbval rows processor ledger browser

JOBS ?= 2
BIN := .venv/bin
INDEX := _build/html/index.html
LIBRARY := $(shell find src/attribook -type f -not -path '*__pycache__*' 2>/dev/null)
export OMP_NUM_THREADS ?= 1
# make book PROCESSOR=default (or avx2, threads2, ...): compute as on another processor
ifdef PROCESSOR
export ATTRIBOOK_PROCESSOR := $(PROCESSOR)
endif
# three quick notebooks, one a paper, for a look from another processor in `make test`
SAMPLE := linear-model uniqueness-fails interactions
# step TEXT: one line for each stage, with the time since make began
BEGAN := $(shell date +%s)
step = printf '\n== %s  (%d s)\n' "$(1)" $$(( $$(date +%s) - $(BEGAN) ))

help:
	@cat <<'TEXT'
	make book    run every notebook (JOBS=2 at a time), compare with the ledger, build the book
	make html    build the book from the committed notebooks, in seconds
	make test    lint, unit tests, notebooks and rows against what is committed, ledger, browser
	make sweep   make the rows of the ledger that are missing, stale or older, and renew it
	make clean   remove what was built and run (the committed notebooks stay)
	PROCESSOR=default with book or test: compute as on an older processor (avx2, threads2, ...)
	TEXT

book: data .book-started
	@$(call step,notebooks)
	drift=0
	$(BIN)/attribook run --all -j $(JOBS) --since .book-started || drift=$$?
	[ $$drift = 0 ] || [ $$drift = 3 ] || exit $$drift  # 3: all ran, and a reference moved
	$(call step,ledger)
	if ! $(BIN)/attribook ledger --check; then
	    drift=3
	    $(BIN)/attribook ledger
	fi
	$(call step,book)
	$(BIN)/attribook build
	rm -f .book-started
	if [ $$drift = 3 ]; then
	    echo "what is named above differs from what is committed; the book shows the fresh one" >&2
	    exit 1
	fi

data: .venv/.installed
	@$(call step,data sets and models)
	$(BIN)/attribook data --fetch

# Notebooks run since this file was made count for an interrupted `make book` that goes on.
.book-started: $(LIBRARY)
	@touch $@

html: .venv/.installed
	@$(call step,book)
	$(BIN)/attribook build

test: lint unit nbval rows processor ledger html browser
	@$(call step,all passed)
	echo "the tested book: $(CURDIR)/$(INDEX)"

lint: .venv/.installed
	@$(call step,lint)
	$(BIN)/ruff format --check --quiet src tests notebooks book
	$(BIN)/ruff check --quiet src tests notebooks book

unit: data
	@$(call step,unit tests)
	$(BIN)/pytest -q -n 2 -m "not browser and not network and not gpu" $(PYTEST_OPTIONS) tests

nbval: data
	@$(call step,notebooks against their references)
	$(BIN)/pytest -q -n 2 --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout 900 notebooks

rows: data
	@$(call step,rows of the ledger)
	head=$$(git rev-parse HEAD 2>/dev/null || echo none)
	$(BIN)/attribook verify --rows 5 --drawn-from $$head --seconds 240 -j $(JOBS)

processor: data
	@$(call step,a sample on another processor)
	$(BIN)/attribook verify $(SAMPLE) --processor default -j $(JOBS)

ledger: .venv/.installed
	@$(call step,ledger)
	$(BIN)/attribook ledger --check

browser: html
	@$(call step,book in a browser)
	bash .ci/browser
	$(BIN)/pytest -q -m browser tests/book

sweep: data
	@$(call step,sweep)
	$(BIN)/attribook sweep --missing --stale --older -j $(JOBS) || [ $$? = 3 ]
	$(BIN)/attribook ledger

clean:
	rm -rf _build runs .snakemake .pytest_cache .ruff_cache .book-started book/_static/mathjax

.venv/.installed: constraints.txt pyproject.toml .ci/venv
	@bash .ci/venv
	touch $@
