# make dev is all a newcomer needs: it sets everything up in this folder and starts mailfarm.
# Everything made here lies in .venv/ and .make/; `make clean` takes both away.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help dev setup-dev setup-test setup-bench test fuzz stack-test stack-images image check format bench bench-quick \
	bench-cluster bench-targets bench-stack prove screenshot audit lock clean

PY := .venv/bin/python
# more than there are cores, as tests wait more than they work
JOBS ?= $(shell n=$$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2); echo $$((n < 2 ? 4 : n > 6 ? 8 : n + 2)))

JOURNEY := tests/stack/test_stack_journey.py
# The seconds it should take on two cores, what, and the command. How long it took is said; after twice that time it is
# ended in an orderly way.
within = began=$$(date +%s); timeout --foreground --signal=INT --kill-after=60 $$((2 * $(1))) $(3); code=$$?; \
	echo "$(2): $$(($$(date +%s) - began)) s; $(1) are meant"; exit $$code

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  make dev ARGS="--ephemeral"            options of "mailfarm dev" (.venv/bin/mailfarm help dev)'
	@echo '  make test ARGS="tests/smtp -k bdat"    options of pytest'

dev: setup-dev ## set everything up and start mailfarm on this machine
	@exec .venv/bin/mailfarm dev $(ARGS)

test: setup-test check stack-images ## set up, check and run every test, and a short journey of the stack
	$(if $(ARGS),,@$(call within,240,the journey of the stack,$(PY) -m pytest $(JOURNEY) -o faulthandler_timeout=400 -ra))
	$(PY) -m pytest -n $(JOBS) --dist worksteal -ra $(if $(ARGS),$(ARGS),--ignore $(JOURNEY))

stack-test: setup-test stack-images ## deploy the stack on a Swarm of its own, update it and break it (25 minutes; root)
	@$(call within,1500,make stack-test,$(PY) -m pytest tests/stack -m 'stack and not prove' \
		-o faulthandler_timeout=900 --durations=25 -ra $(ARGS))

prove: setup-test stack-images ## break a cluster of processes, mailfarm dev and the stack in every way there is, and prove that no mail is lost (long; root)
	.venv/bin/mailfarm prove --full --jobs 3 --report .make/prove $(ARGS)
	.venv/bin/mailfarm prove dev --full --jobs 3 --report .make/prove-dev $(ARGS)
	$(if $(ARGS),,$(PY) -m pytest tests/prove -m prove -n 3 -ra)
	$(if $(ARGS),,$(PY) -m pytest tests/stack -m 'stack and prove' -o faulthandler_timeout=900 -ra)

stack-images: setup-test
	@$(PY) tests/stack/images.py

check: setup-test ## ruff and mypy
	$(PY) -m ruff check . stack/deploy stack/try
	$(PY) -m ruff format --check . stack/deploy stack/try
	$(PY) -m mypy

format: setup-test ## let ruff lay out the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

fuzz: setup-test ## look for input that breaks a parser, the SMTP core or a queue, for longer (20 minutes)
	$(PY) -m pytest tests/fuzz -n $(JOBS) --hypothesis-profile=long -o faulthandler_timeout=3000 -ra $(ARGS)

bench: setup-bench ## measure mailfarm beside its peers on two cores, and the targets (20 minutes; root for Postfix)
	$(PY) bench/compare.py $(ARGS)

bench-quick: setup-bench ## the same in three minutes, and less exactly
	$(PY) bench/compare.py --quick $(ARGS)

bench-cluster: setup-test ## measure the pieces of a cluster: services, queue, filing, cache, look-ups (ten minutes)
	for each in cluster queues file cache recipients; do $(PY) bench/$$each.py $(ARGS) || exit; done

bench-targets: setup-bench ## measure TLS, idle sessions, pushes, lists and growth; make bench then shows them (long)
	for each in tls idle push lists growth; do $(PY) bench/$$each.py $(ARGS) || exit; done

bench-stack: setup-bench stack-images ## mail through the load balancer of a deployed stack (ten minutes; root)
	$(PY) bench/stack.py $(ARGS)

screenshot: setup-test ## take the README's pictures of the web inbox
	$(PY) bench/screenshot.py $(ARGS)

audit: setup-test ## ask whether a package has a known weakness; write an SBOM (.make/sbom.json)
	@.ci/audit

lock: ## write requirements.lock anew, from the newest versions setup.cfg allows
	mkdir -p .make && rm -rf .make/lock-venv
	python3 -m venv .make/lock-venv
	.make/lock-venv/bin/python -m pip install -q --disable-pip-version-check '.[test]'
	{ echo '# The exact versions `make` installs, for the program and for its tests. Written by `make lock`.'; \
	  .make/lock-venv/bin/python -m pip freeze --exclude mailfarm; } > .make/requirements.lock
	mv .make/requirements.lock requirements.lock

clean: ## take away everything that was made here (not the mail: see data/)
	rm -rf .venv .make build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

setup-dev setup-test setup-bench:
	@.ci/setup $(@:setup-%=%)
