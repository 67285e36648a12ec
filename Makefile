# make try    the lab, site.yml on it, a hub on this machine's loopback
# make test   everything that CI runs: lint, sanity, unit, lab, e2e
# make clean  the lab is gone; what was downloaded and built stays in ~/.cache/gpuhub-lab

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv lab try collection lint sanity unit lab-test e2e deployed molecule bench bench-portal mutants test soak clean
# The lab that is deployed from nothing; each part of the end-to-end tests goes on from there on a lab of its own.
export GPUHUB_LAB_NAME := $(or $(GPUHUB_LAB_NAME),lab)
PARTS := $(shell ls tests/e2e | sed -n 's/^test_\([2-9]\)_.*/e2e-\1/p' | sort --unique)
.PHONY: histories e2e-deploy molecule-drawn deployed-lab first-lab second-lab $(PARTS)

CACHE := $(or $(GPUHUB_LAB_CACHE),$(HOME)/.cache/gpuhub-lab)
VENV := $(CACHE)/venv/current
export PATH := $(VENV)/bin:$(PATH)
# Else each of thousands of processes compiles what it imports.
unexport PYTHONDONTWRITEBYTECODE
LAB := lab/lab
BEGINS = { echo "$$(date +%T) $@" >&3; } 2>/dev/null || true; tests/budget begin $@
ENDS = tests/budget end $@
PLAY = $(LAB) run ansible-playbook -i inventories/lab

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

venv:
	@lab/venv >/dev/null

lab: ## emulated hosts with nothing on them, and a bundle to deploy from
	@lab/venv deploy >/dev/null
	@$(LAB) build
	@$(LAB) up

try: lab ## deploy the lab with site.yml and publish the hub on this machine's loopback
	$(PLAY) playbooks/site.yml
	@$(LAB) publish
	@echo 'http://127.0.0.1:29781/ is the usage portal:'
	@echo '  curl -H "Authorization: Bearer $$(lab/lab exec head cat /var/lib/gpuhub/secrets/usage-portal-admin-token)" http://127.0.0.1:29781/users/alice/limits'

collection: venv ## the archive that `ansible-galaxy collection install` takes, in tests/output
	@.ci/collection tests/output

lint: venv ## style of playbooks, roles, plugins and tests
	@$(BEGINS)
	yamllint .
	ruff check .
	ruff format --check .
	tests/lint/ansible_lint
	tests/lint/argument_specs.py
	tests/lint/troubleshooting.py
	tests/lint/settings_page.py
	antsibull-changelog lint
	@$(ENDS)

sanity: venv ## that archive, as Ansible's own tools judge it
	@$(BEGINS)
	tests/sanity/run "$$(.ci/collection tests/output)"
	@$(ENDS)

unit: venv ## pure functions; the ledger on a PostgreSQL, its copy on a MariaDB, a sample of the simulator's histories
	@$(BEGINS)
	@tests/install-mariadb
	pytest tests/unit tests/simulator
	@$(ENDS)

HISTORIES := 10000
histories: venv ## the simulator's histories in full: make histories HISTORIES=10000 GPUHUB_SEED=1
	cd tests && PYTHONPATH=. python -m simulator --histories $(HISTORIES)

mutants: venv ## changes to ledger and collector that their tests must notice; an hour, SAMPLE=400 draws so many
	PYTHONPATH=tests GPUHUB_MUTANTS_SAMPLE=$(SAMPLE) python tests/mutants $(if $(NAMES),'$(NAMES)')

# What tests of hosts, snaps and doubles look at; what images hold comes from all over the repository.
OF_HOSTS := $(addprefix tests/lab/test_,lab.py microk8s_double.py microk8s_gpus.py gpu_double.py golang.py snaps.py)
LOOKED_AT := lab vars $(OF_HOSTS) tests/conftest.py tests/lab/conftest.py tests/sample.py tests/microk8s_hosts.py tests/once
lab-test: venv ## the lab itself and its doubles; `make test` runs again what depends on a file that has changed
	@$(BEGINS)
	find $(LOOKED_AT) -type f -not -path '*/__pycache__/*' | LC_ALL=C sort | xargs sha256sum | \
	$(if $(REMEMBER),tests/once hosts) pytest -x $(OF_HOSTS)
	pytest -x $(filter-out $(OF_HOSTS),$(wildcard tests/lab/test_*.py))
	@$(ENDS)

e2e: $(PARTS) ## what users meet: playbooks, a browser, faults

e2e-deploy: venv ## bad input, and a deployment from nothing, which is saved
	@$(BEGINS)
	pytest -x tests/e2e/test_[01]_*.py
	$(if $(SHARE_LAB),,@$(LAB) down)
	@$(ENDS)

# Each on a lab of its own, so that more cores run several (`make --jobs=4 e2e`); with SHARE_LAB one after the other on
# the lab that was deployed, which has nothing to copy. The lab of a part that has failed stays, to be looked at.
PART_LAB = $(GPUHUB_LAB_NAME)$(if $(SHARE_LAB),,-$(1))
CLEAN_UP = $(if $(SHARE_LAB),,; $(LAB) clean)
$(PARTS): e2e-%: e2e-deploy
	@$(BEGINS)
	export GPUHUB_LAB_NAME=$(call PART_LAB,$*) GPUHUB_LAB_FROM=$(GPUHUB_LAB_NAME); pytest -x tests/e2e/test_$*_*.py$(CLEAN_UP)
	@$(ENDS)

molecule-drawn: e2e-deploy
	@$(BEGINS)
	scenario=$(or $(SCENARIO),$$(ls roles | shuf --head-count=1)); echo "make molecule-drawn SCENARIO=$$scenario"; \
	export GPUHUB_LAB_NAME=$(call PART_LAB,m); \
	$(if $(GPUHUB_LAB_AS_IT_IS),,$(LAB) load deployed $(if $(SHARE_LAB),,--from $(GPUHUB_LAB_NAME));) $(LAB) run molecule test -s $$scenario$(CLEAN_UP)
	@$(ENDS)

deployed: lab
	@$(LAB) load deployed 2>/dev/null || { $(PLAY) playbooks/site.yml && $(LAB) save deployed; }

molecule: deployed ## a scenario for each role on the deployed lab; SCENARIO=calico runs one
	$(LAB) run molecule test $(if $(SCENARIO),-s $(SCENARIO),--all)
	@$(LAB) load deployed

BENCH = missed=0; for bench in $(1); do PYTHONPATH=tests:collections python $$bench || missed=1; done; exit $$missed
bench: deployed ## ratios against references that run beside them; fails where a goal is missed
	@$(call BENCH,tests/bench/bench_*.py)

bench-portal: venv ## those of the usage portal, its collector and the hub, which need no lab
	@$(call BENCH,tests/bench/bench_portal_*.py)

test: ## everything that CI runs; what runs beside the first lab says at once that it begins, at its end what it printed
	@rm -rf tests/output/times
	@$(BEGINS)
	@# What builds the lab's artefacts, while linters and tests are installed.
	@lab/venv deploy >/dev/null
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target REMEMBER=1 first-lab lint sanity unit second-lab lab-test 3>&1
	@$(ENDS)
	@tests/budget

# One lab leaves a core idle half of the time. Beside it run those that need no lab, then another with a copy of what the
# first deployed. In each, parts go one after the other, and on from where the one before has ended if that is as it was
# deployed. Part 4 is left out: what is deployed has itself been cut off.
AS_DEPLOYED := e2e-2 e2e-7
AND_THEN := e2e-5
deployed-lab first-lab second-lab: export MAKEFLAGS := $(filter-out -j% --jobserver% -O%,$(MAKEFLAGS))
deployed-lab:
	@$(LAB) build
	@$(MAKE) SHARE_LAB=1 e2e-deploy

first-lab: deployed-lab
	@$(MAKE) --assume-old=e2e-deploy SHARE_LAB=1 GPUHUB_LAB_AS_IT_IS=1 $(AS_DEPLOYED) molecule-drawn
	@$(MAKE) --assume-old=e2e-deploy SHARE_LAB=1 $(AND_THEN)
	@$(LAB) down

second-lab: deployed-lab
	@$(MAKE) --assume-old=e2e-deploy PART_LAB=$(GPUHUB_LAB_NAME)-b CLEAN_UP= $(filter-out $(AS_DEPLOYED) $(AND_THEN) e2e-4,$(PARTS))
	@GPUHUB_LAB_NAME=$(GPUHUB_LAB_NAME)-b $(LAB) clean

soak: export GPUHUB_SOAK = 1
soak: unit histories e2e molecule ## the full figures: every history, fault, task cut off, scenario; hours, docs/testing.md has parts

clean: ## remove the labs; the cache stays
	@for lab in $(GPUHUB_LAB_NAME) $(PARTS:e2e-%=$(GPUHUB_LAB_NAME)-%) $(GPUHUB_LAB_NAME)-m $(GPUHUB_LAB_NAME)-b; do GPUHUB_LAB_NAME=$$lab $(LAB) clean; done
