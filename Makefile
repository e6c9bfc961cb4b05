# make help lists the targets. PYTHON names the interpreter with the project installed.

PYTHON ?= python
RESULTS := $(wildcard experiments/results/*.json)
DRAWING := $(wildcard figures/*.py) vashista_theory/plots.py
export MPLBACKEND := Agg

help:
	@echo "make paper        what changed: experiments, figures, numbers, README and PDF; a second run does nothing"
	@echo "                  (under a minute where no result is stale; needs latexmk and TeX)"
	@echo "make experiments  the results whose sources changed; docs/experiments.md has the time of each"
	@echo "make figures      every figure from the results, in figures/output (half a minute)"
	@echo "make readme       the generated parts of README.md and docs/ (seconds)"
	@echo "make docs         the documentation site, in site/: runs the code of its pages and the notebooks"
	@echo "                  (minutes, seconds where nothing changed; pip install -e '.[docs]')"
	@echo "make test         the tests (a quarter of an hour on two cores; pip install -e '.[test]')"

# The steps depend on files that the earlier ones write, so each is its own make.
paper:
	$(PYTHON) -m experiments update
	$(MAKE) figures readme
	$(MAKE) -C paper PYTHON="$(PYTHON)"

experiments:
	$(PYTHON) -m experiments update

figures: figures/output/stamp

figures/output/stamp: $(DRAWING) $(RESULTS)
	$(PYTHON) -m figures all
	touch $@

readme: figures/output/readme

figures/output/readme: $(RESULTS) $(shell find experiments -name "*.py")
	@mkdir -p figures/output
	$(PYTHON) -m figures theorem --output docs/images
	$(PYTHON) -m experiments.framework.pages
	touch $@

docs: figures
	$(PYTHON) -m mkdocs build --strict

test:
	$(PYTHON) -m pytest

.PHONY: help paper experiments figures readme docs test
