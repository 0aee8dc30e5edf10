# The words are the same here and in CI. `make demo` and `make test` need only Python >= 3.11 and make.

PYTHON ?= python3
JOBS   ?= 2
# Extra arguments of pip, for example to choose a build of torch for this machine.
PIP_ARGS ?=

BIN   := .venv/bin
READY := .venv/.ready

.PHONY: demo test check fix docs test-long bench setup system clean
.DEFAULT_GOAL := test

demo: $(READY)
	$(BIN)/lmcraft demo --out runs/demo

# One thread a worker: the workers share the cores, and torch would start one thread for each core in each of them.
test: check system
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

test-long: $(READY) system
	OMP_NUM_THREADS=$(JOBS) $(BIN)/python -m pytest -m long

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python docs/make_map.py --check
	$(BIN)/python docs/make_settings.py --check
	$(BIN)/python docs/make_studies.py --check

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/make_map.py
	$(BIN)/python docs/make_settings.py
	$(BIN)/python docs/make_studies.py

docs: $(READY)
	$(BIN)/python docs/make_map.py
	$(BIN)/python docs/make_settings.py
	$(BIN)/python docs/make_studies.py

# The second benchmark measures the demo's models, so it runs the demo first (or finds it finished).
bench: $(READY) demo
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/demo_baseline.py runs/demo

setup: $(READY)

# torch comes first and alone, so that an environment with a wheel of its own (CPU, CUDA, ROCm) keeps it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which one with: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "the venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e ".[data,eval,feedback,fit,postgres,words,dev]"
	@touch $@

# Programs that some tests use. As root (containers, CI) they are installed; otherwise those tests skip themselves.
# Debian keeps the programs of PostgreSQL out of PATH, in /usr/lib/postgresql/VERSION/bin.
SYSTEM := strace docker-registry postgresql
system:
	@for program in $(SYSTEM); do \
		{ command -v $$program || ls /usr/lib/$$program/*/bin; } > /dev/null 2>&1 && continue; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
			{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$program > /dev/null; } || \
				echo "$$program could not be installed; the tests that need it are skipped"; \
		else \
			echo "$$program is missing; the tests that need it are skipped. Install it: sudo apt-get install $$program"; \
		fi; \
	done

clean:
	rm -rf .venv runs/demo .pytest_cache .ruff_cache .hypothesis
