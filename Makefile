# Everything runs in .venv, which `environment` makes; tools/environment.py says how.
.DEFAULT_GOAL := help
.PHONY: help environment reproduce regimes test readme clean

PROFILE ?= quick
OUT ?= runs
JOBS ?=
TORCH ?=
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

help:         ## this list
	@sed -n 's/^\([a-z]*\): .*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

environment:  ## install what is needed into .venv, once for all clones (2-3 minutes, 6 GB; TORCH=cpu: 1.6 GB, for no GPU)
	@test -n "$(PYTHON)" || { echo "environment: Python 3.11 or newer is needed and was not found: install it, or name it with make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@TORCH="$(TORCH)" "$(PYTHON)" tools/environment.py

reproduce: environment  ## train, test and report the regimes; PROFILE=tiny, quick or report, OUT=folder, JOBS=processes
	@.venv/bin/cgen-batch --profile "$(PROFILE)" --out "$(OUT)" $(if $(JOBS),--jobs "$(JOBS)")

regimes: environment  ## every regime under the same judges, on both data sets; PROFILE, OUT and JOBS as above
	@for data in mnist fashion_mnist; do \
	    .venv/bin/cgen-batch --study regimes --profile "$(PROFILE)" --dataset $$data --out "$(OUT)/regimes/$$data" \
	        $(if $(JOBS),--jobs "$(JOBS)") || exit $$?; done

test: environment  ## every test: exported code in sync, the notebooks, then pytest
	@.venv/bin/python tools/check.py

readme: environment  ## write README.md from nbs/index.ipynb, and nbs/_quarto.yml from _quarto.yml
	@.venv/bin/python tools/readme.py

clean:        ## delete .venv and what builds and tests leave; runs and the shared packages stay
	@[ ! -e .venv ] || [ -e .venv/complete ] || ls .venv/lib/*/site-packages/shared_environment.pth >/dev/null 2>&1 \
	    || { echo "clean: .venv was not made by this project: rename or delete it" >&2; exit 2; }
	@rm -rf .venv build dist *.egg-info .pytest_cache _docs _proc nbs/nbdev.yml nbs/sidebar.yml
	@find . -name __pycache__ -prune -exec rm -rf {} +
	@echo "clean: the shared environments stay in $${CURRICULUM_GEN_ENVIRONMENTS:-$${XDG_CACHE_HOME:-$$HOME/.cache}/curriculum_gen/environments}"
