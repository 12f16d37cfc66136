# Builds, tests and sweeps the book. Needs make and Python 3.11 or newer; the rest goes into .venv.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
.PHONY: help book html test sweep clean data lint unit nbval ledger browser

JOBS ?= 2
BIN := .venv/bin
INDEX := _build/html/index.html
LIBRARY := $(shell find src/attribook -type f -not -path '*__pycache__*' 2>/dev/null)
export OMP_NUM_THREADS ?= 1
# step TEXT: one line for each stage, with the time since make began
BEGAN := $(shell date +%s)
step = printf '\n== %s  (%d s)\n' "$(1)" $$(( $$(date +%s) - $(BEGAN) ))

help:
	@cat <<'TEXT'
	make book    run every notebook (JOBS=2 at a time), compare with the ledger, build the book
	make html    build the book from the committed notebooks, in seconds
	make test    lint, unit tests, notebooks against their references, ledger, book in a browser
	make sweep   run the notebooks over their models and seeds, and renew the ledger
	make clean   remove what was built and run (the committed notebooks stay)
	TEXT

book: data .book-started
	@$(call step,notebooks)
	$(BIN)/attribook run --all -j $(JOBS) --since .book-started
	$(call step,ledger)
	drift=0
	$(BIN)/attribook ledger --check || drift=1
	if [ $$drift = 1 ]; then $(BIN)/attribook ledger; fi
	$(call step,book)
	$(BIN)/attribook build
	rm -f .book-started
	if [ $$drift = 1 ]; then
	    echo "the claims above differ from the committed ledger; the book shows the fresh ones" >&2
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

test: lint unit nbval ledger html browser
	@$(call step,all passed)
	echo "the tested book: $(CURDIR)/$(INDEX)"

lint: .venv/.installed
	@$(call step,lint)
	$(BIN)/ruff format --check --quiet src tests notebooks book
	$(BIN)/ruff check --quiet src tests notebooks book

unit: data
	@$(call step,unit tests)
	$(BIN)/pytest -q -n 2 -m "not browser and not network and not gpu" tests

nbval: data
	@$(call step,notebooks against their references)
	$(BIN)/pytest -q -n 2 --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout 900 notebooks

ledger: .venv/.installed
	@$(call step,ledger)
	$(BIN)/attribook ledger --check

browser: html
	@$(call step,book in a browser)
	bash .ci/browser
	$(BIN)/pytest -q -m browser tests/book

sweep: data
	@$(call step,sweep)
	$(BIN)/attribook sweep -j $(JOBS)
	$(BIN)/attribook ledger

clean:
	rm -rf _build runs .snakemake .pytest_cache .ruff_cache .book-started book/_static/mathjax

.venv/.installed: constraints.txt pyproject.toml .ci/venv
	@bash .ci/venv
	touch $@
