# Every target installs what it needs first; setup costs nothing when nothing has changed.
BIN := .venv/bin

.PHONY: setup demo demo-pr2l play test test-slow lint bench upgrade

setup:
	@setup/setup.sh

demo: setup
	$(BIN)/vla demo --out runs/demo

# With the policy of `make demo`; says so where there is none.
demo-pr2l: setup
	$(BIN)/vla demo-pr2l --out runs/demo-pr2l

# The policy of `make demo`, or random actions where there is none.
play: setup
	$(BIN)/vla play $(if $(wildcard runs/demo/export),--policy runs/demo/export)

# On two cores, a file's tests in one process: what they share is made once.
test: setup
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# Those that take minutes; by hand, before a release.
test-slow: setup
	$(BIN)/pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: demo
	@status=0; for script in benchmarks/*.py; do $(BIN)/python $$script || status=1; done; exit $$status

upgrade:
	@setup/setup.sh --upgrade
