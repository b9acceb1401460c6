# SPDX-License-Identifier: GPL-3.0-or-later

ifndef PYTHON
PYTHON := $(shell command -v python3)
endif

# Tools are those of .venv; what they keep lies in the checkout, where `make clean` finds it.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_HOME := $(CURDIR)/.cache/ansible
export PYTEST_DEBUG_TEMPROOT := $(CURDIR)/.cache

# Nothing said means all programs of the bench.
BENCH_ALL := $(if $(BENCH)$(BENCH_UPGRADES)$(BENCH_FLEET),,yes)

STAGES := environment lint sanity unit standin sample scenarios

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test environment lint sanity unit standin sample scenarios bench campaign page matrix reference docs build importer clean check python

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: check .venv/.demo ## set up everything and upgrade an embedded Opstage from 0.2.0 to 0.3.0
	@$(PYTHON) tests/testbed/demo.py

test: check ## all of the below, from nothing to green
	@$(PYTHON) tests/tools/stages.py $(STAGES)

environment: .venv/.development ## .venv with all tools, and the collection under its full name

lint: environment ## formats, types, rules, changelog fragments, licenses
	ruff check .
	ruff format --check .
	mypy --package ansible_collections.capsule.opstage.plugins
	mypy tests/bench tests/campaign tests/compatibility tests/page tests/scenarios tests/standin tests/testbed tests/tools
	yamllint --strict .
	ansible-lint
	antsibull-changelog lint
	antsibull-changelog lint-changelog-yaml changelogs/changelog.yaml
	python tests/tools/licenses.py

sanity: environment ## ansible-test sanity, with no ignore file
	python tests/tools/sanity.py

unit: export ANSIBLE_REMOTE_TEMP := $(ANSIBLE_HOME)/remote
unit: check environment ## tests of the core and the modules
	pytest --numprocesses 2 tests/unit

standin: check environment ## does the Opstage stand-in behave as the real one?
	pytest tests/standin

sample: check environment ## a fixed sample of the campaigns
	pytest --verbose tests/campaign

scenarios: check environment ## all molecule scenarios, on real hosts
	pytest --verbose tests/scenarios

bench: check .venv/.demo ## measure snapshot, upgrades and fleet, 2 hours; BENCH=, BENCH_UPGRADES= or BENCH_FLEET="--help": one of the programs
ifneq ($(or $(BENCH),$(BENCH_ALL)),)
	@python tests/bench/bench.py $(BENCH)
endif
ifneq ($(or $(BENCH_UPGRADES),$(BENCH_ALL)),)
	@python tests/bench/upgrades.py $(BENCH_UPGRADES)
endif
ifneq ($(or $(BENCH_FLEET),$(BENCH_ALL)),)
	@python tests/bench/fleet.py $(BENCH_FLEET)
endif

campaign: check environment ## faults, random histories and interruptions, in full: hours
	python tests/campaign/faults.py
	python tests/campaign/differential.py
	python tests/campaign/interruptions.py

page: check environment ## the status page in a real headless browser; where there is none, Debian's takes 0.5 GiB
	pytest tests/page

matrix: check environment ## the playbooks from all supported controllers and on all supported hosts: half an hour
	python tests/compatibility/matrix.py --document docs/compatibility.md
	python tests/compatibility/summary.py

reference: environment ## write docs/configuration.md from what the roles, playbooks and modules say
	python tests/tools/configuration_reference.py

docs: python ## the guide, the modules and the roles as HTML in .cache/docs/html
	@$(PYTHON) tests/tools/documentation.py

build: environment ## the collection's artifact
	@python tests/tools/artifact.py

importer: environment .cache/importer/.installed ## would Galaxy take the artifact, and does ansible-builder understand it?
	rm -rf .cache/importer/run
	python tests/tools/artifact.py .cache/importer/run
	@cd .cache/importer/run && export HOME="$$PWD" PATH="$(CURDIR)/.cache/importer/bin:$$PATH" && \
	{ python -m galaxy_importer.main capsule-opstage-*.tar.gz > importer.log || { cat importer.log; exit 1; }; } && \
	! grep -E '^(WARNING|ERROR):' importer.log && \
	tar -xf capsule-opstage-*.tar.gz execution-environment.yml && ansible-builder create

clean: python ## remove all that the targets above made
	@if [ -e .testbed ] || [ -e .cache/testbed ]; then $(PYTHON) tests/testbed/testbed.py clean; fi
	rm -rf .ansible .cache .collections .demo .pytest_cache .testbed .venv capsule-opstage-*.tar.gz
	find . -name .git -prune -o -name __pycache__ -exec rm -rf {} +

check: python
	@$(PYTHON) tests/tools/environment.py check

python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "error: Python 3.11 or newer is needed, found: $$("$(PYTHON)" -V 2>/dev/null || echo none)" >&2; exit 1; }

.cache/importer/.installed: requirements/importer.txt | python
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --no-compile --disable-pip-version-check --requirement $<
	@touch $@

.venv/.%: requirements/%.txt requirements/demo.txt requirements/constraints.txt tests/tools/environment.py | python
	@$(PYTHON) tests/tools/environment.py $*
	@touch .venv/.demo $@
