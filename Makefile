# make try    the lab, site.yml on it, a hub on this machine's loopback
# make test   everything that CI runs: lint, sanity, unit, lab, e2e
# make clean  the lab is gone; what was downloaded and built stays in ~/.cache/gpuhub-lab

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv lab try collection lint sanity unit lab-test e2e deployed molecule bench test soak clean

CACHE := $(or $(GPUHUB_LAB_CACHE),$(HOME)/.cache/gpuhub-lab)
VENV := $(CACHE)/venv/current
export PATH := $(VENV)/bin:$(PATH)
LAB := lab/lab
PLAY = $(LAB) run ansible-playbook -i inventories/lab

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 12

venv:
	@lab/venv >/dev/null

lab: venv ## emulated hosts with nothing on them, and a bundle to deploy from
	@$(LAB) build
	@$(LAB) up

try: lab ## deploy the lab with site.yml and publish the hub on this machine's loopback
	$(PLAY) playbooks/site.yml
	@$(LAB) publish

collection: venv ## the archive that `ansible-galaxy collection install` takes, in tests/output
	@.ci/collection tests/output

lint: venv ## style of playbooks, roles, plugins and tests
	yamllint .
	ruff check .
	ruff format --check .
	ansible-lint
	tests/lint/argument_specs.py
	tests/lint/troubleshooting.py
	tests/lint/settings_page.py
	antsibull-changelog lint

sanity: venv ## that archive, as Ansible's own tools judge it
	tests/sanity/run "$$(.ci/collection tests/output)"

unit: venv ## pure functions
	pytest tests/unit

lab-test: venv ## the lab itself and its doubles
	pytest -x tests/lab

e2e: venv ## what users meet: playbooks, a browser, faults
	pytest -x tests/e2e

deployed: lab
	@$(LAB) load deployed 2>/dev/null || { $(PLAY) playbooks/site.yml && $(LAB) save deployed; }

molecule: deployed ## a scenario for each role on the deployed lab; SCENARIO=calico runs one
	$(LAB) run molecule test $(if $(SCENARIO),-s $(SCENARIO),--all)
	@$(LAB) load deployed

bench: deployed ## ratios against references that run beside them; fails where a goal is missed
	@missed=0; for bench in tests/bench/bench_*.py; do PYTHONPATH=tests python $$bench || missed=1; done; exit $$missed

test: lint sanity unit lab-test e2e ## everything that CI runs

soak: venv ## the full figures: every fault that is planted by hand is reported and repaired
	GPUHUB_SOAK=1 pytest -x tests/e2e
	$(MAKE) molecule

clean: ## remove the lab; the cache stays
	@$(LAB) clean
