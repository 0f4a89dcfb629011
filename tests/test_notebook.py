"""docs/notebook.ipynb: whole, with outputs, and in the slow suite executed as a user would."""

import ast
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

import vla
from vla import cli
from vla.commands.configs import find_config

ROOT = Path(__file__).parents[1]
NOTEBOOK = nbformat.read(ROOT / "docs/notebook.ipynb", as_version=4)
CELLS = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]


def test_the_notebook_is_valid_and_was_executed_in_order_without_an_error():
    nbformat.validate(NOTEBOOK)
    assert [cell.execution_count for cell in CELLS] == list(range(1, len(CELLS) + 1))
    assert {output.output_type for cell in CELLS for output in cell.outputs} == {"stream", "display_data"}
    said = "".join(output.get("text", "") for cell in CELLS for output in cell.outputs)
    assert "half ranges" in said and "as in this process: True" in said and "Traceback" not in said
    assert not re.search(r"/(tmp|home|root|work)/", said)


def test_its_code_uses_what_there_is():
    commands = []
    for cell in CELLS:
        lines = cell.source.splitlines()
        if lines[0].startswith("%%writefile"):
            assert isinstance(yaml.safe_load("\n".join(lines[1:])), dict)
            continue
        commands += [line[1:] for line in lines if line.startswith("!vla ")]
        tree = ast.parse("\n".join(line for line in lines if not line.startswith("!")))
        used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "vla"}
        assert used <= set(vla.__all__)
    for command in commands:
        name, *rest = command.split()[1:]
        assert name in cli.COMMANDS | cli.LIGHTNING or rest[0] in cli.DATA
        assert all(find_config(config) for config in re.findall(r"-c (\S+)", command))
    assert {command.split()[1] for command in commands} == {"collect", "data", "fit"}


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'client/src'}")
    again = nbformat.read(ROOT / "docs/notebook.ipynb", as_version=4)
    NotebookClient(again, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(output.get("text", "") for cell in again.cells for output in cell.get("outputs", ()))
    assert "half ranges" in said and "as in this process: True" in said and "server ended with 0" in said
    assert (tmp_path / "runs/own/export/contract.json").is_file()
