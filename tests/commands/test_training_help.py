"""The pages of `vla fit --help` and the like: short, at once, and true."""

import dataclasses
import inspect
import subprocess
import sys

import pytest

from vla.commands.training_help import PAGES, asks_for_all, page, requested


def test_a_page_is_printed_without_loading_what_trains():
    code = "import sys; from vla import cli; code = cli.main(['predict', '-c', 'x.yaml', '--help']);"
    code += "sys.exit(code or bool({'torch', 'lightning', 'transformers'} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and run.stdout.startswith("usage: vla predict") and "--help all" in run.stdout


def test_all_settings_can_be_asked_for():
    assert requested(["fit", "-c", "x.yaml"]) is None and requested(["fit", "-h"]) == page("fit")
    assert requested(["fit", "--help", "all"]) is None and asks_for_all(["fit", "--help", "all"])


@pytest.mark.parametrize("command", PAGES)
def test_a_page_is_short(command):
    lines = page(command).splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 132


def test_the_settings_exist_and_have_these_defaults():
    from lightning.pytorch import Trainer

    from vla.models.adapters import Lora
    from vla.training.contract import ContractOptions
    from vla.training.data import VLAData
    from vla.training.module import VLAModule

    def defaults(function):
        return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}

    contract = {field.name: field.default for field in dataclasses.fields(ContractOptions)}
    known = {"model": defaults(VLAModule), "data": defaults(VLAData), "trainer": defaults(Trainer), "contract": contract}
    # What Lightning writes None for.
    known["trainer"] |= {"accumulate_grad_batches": 1}
    known["model"]["lora.rank"] = Lora().rank
    rows = {name: default for _, _, topics in PAGES.values() for rows in topics.values() for name, (default, _) in rows.items()}
    for name, default in rows.items():
        section, _, setting = name.rstrip("+").partition(".")
        if section in known and not setting.startswith("sources."):
            true = known[section][setting]
            shown = f"[{', '.join(true)}]" if isinstance(true, tuple) else "" if true is None else str(true)
            assert default == shown, name
