# Every target installs what it needs first; setup costs nothing when nothing has changed.
BIN := .venv/bin

.PHONY: setup demo test lint bench upgrade

setup:
	@setup/setup.sh

demo: setup
	$(BIN)/vla demo --out runs/demo

test: setup
	$(BIN)/pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: demo
	@status=0; for script in benchmarks/*.py; do $(BIN)/python $$script || status=1; done; exit $$status

upgrade:
	@setup/setup.sh --upgrade
