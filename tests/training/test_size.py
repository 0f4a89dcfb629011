"""What larger models need: adapters, averages, precision, memory."""

import csv
import json
import re
import sys

import pytest
import torch
import yaml

from vla import cli
from vla.checkpoint import load_checkpoint
from vla.errors import UserError
from vla.models.adapters import Lora, add_lora, merged
from vla.models.load import load_vlm
from vla.training.optimizer import make_optimizer


def state(tmp_path, step=4):
    return torch.load(tmp_path / f"run/checkpoints/step={step:07d}.ckpt", weights_only=True)


def with_callback(config, name, **arguments):
    body = yaml.safe_load(config.read_text())
    body["trainer"]["callbacks"].append({"class_path": f"vla.training.callbacks.{name}", "init_args": arguments})
    config.write_text(yaml.safe_dump(body))


def test_adapters_learn_alone_go_on_exactly_and_are_merged_in_an_export(config, tmp_path, vlm, capsys):
    adapted = ["--model.lora.rank=4", "--model.lora.dropout=0.1", "--model.learning_rate=0.01"]
    assert cli.main(["fit", "-c", str(config), *adapted]) == 0
    straight = state(tmp_path)["state_dict"]
    (tmp_path / "run/checkpoints/step=0000004.ckpt").unlink()
    assert cli.main(["fit", "-c", str(config), *adapted, "--ckpt_path", "last"]) == 0
    again = state(tmp_path)["state_dict"]
    assert all(torch.equal(value, again[name]) for name, value in straight.items())
    before = load_vlm(vlm)[0].state_dict()
    changed = [name for name, value in straight.items() if "lora" not in name and not torch.equal(value, _of(before, name))]
    assert not changed and any("lora_B" in name and value.any() for name, value in straight.items())

    model = load_checkpoint(tmp_path / "run/checkpoints/step=0000004.ckpt")[0]
    assert model.state_dict().keys() == before.keys()
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert moved and all("language.layers" in name or "project" in name for name in moved)
    assert cli.main(["export", "--ckpt", str(tmp_path / "run/checkpoints/step=0000004.ckpt"), "--out", str(tmp_path / "e")]) == 0
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in load_vlm(tmp_path / "e")[0].state_dict().items())

    # The export that a run writes at its end is the same.
    assert cli.main(["fit", "-c", str(config), *adapted, f"--export={tmp_path / 'f'}"]) == 0
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in load_vlm(tmp_path / "f")[0].state_dict().items())

    capsys.readouterr()
    code = cli.main(["fit", "-c", str(config), "--model.lora.rank=2", "--ckpt_path", "last"])
    assert code == 2 and "adapters" in capsys.readouterr().err


def _of(before, name):
    """The weight of the plain model that a wrapped one's name belongs to."""
    return before[name.removeprefix("model.").removeprefix("base_model.model.").replace(".base_layer", "")]


def test_adapters_merged_give_the_same_logits(vlm):
    model = add_lora(load_vlm(vlm)[0], Lora(rank=2))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(20, 60, (2, 7))
    with torch.inference_mode():
        adapted = model(input_ids=ids).logits
        plain = merged(model)(input_ids=ids).logits
        untouched = load_vlm(vlm)[0](input_ids=ids).logits
    assert torch.allclose(adapted, plain, atol=1e-4) and not torch.allclose(adapted, untouched, atol=1e-2)
    with pytest.raises(UserError, match="model.lora"):
        add_lora(load_vlm(vlm)[0], Lora(rank=2, targets=["nothing"]))


def test_averaged_weights_are_what_is_saved_and_a_run_goes_on_with_its_own(config, tmp_path, capsys):
    with_callback(config, "EMA", decay=0.5)
    assert cli.main(["fit", "-c", str(config)]) == 0
    straight = state(tmp_path)
    assert any(not torch.equal(value, straight["current_model_state"][name]) for name, value in straight["state_dict"].items())
    (tmp_path / "run/checkpoints/step=0000004.ckpt").unlink()
    assert cli.main(["fit", "-c", str(config), "--ckpt_path", "last"]) == 0
    again = state(tmp_path)
    for kind in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, again[kind][name]) for name, value in straight[kind].items()), kind
    body = yaml.safe_load(config.read_text())
    body["trainer"]["callbacks"].pop()
    config.write_text(yaml.safe_dump(body))
    capsys.readouterr()
    assert cli.main(["fit", "-c", str(config), "--ckpt_path", "last"]) == 2
    assert "averaged weights" in capsys.readouterr().err


def test_a_rollout_has_the_averaged_weights():
    from vla.training.callbacks import EMA
    from vla.training.rollouts import averaged

    class Module(torch.nn.Module):
        def __init__(self, value):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([value]))

    callback, module = EMA(), Module(1.0)
    callback._average_model = torch.optim.swa_utils.AveragedModel(Module(2.0))
    trainer = type("Trainer", (), {"callbacks": [callback]})()
    with averaged(trainer, module):
        assert module.weight.item() == 2
    assert module.weight.item() == 1
    # Under bf16-true the average is finer than the weights, and stays so.
    callback._average_model.module.weight.data.fill_(1.001)
    with averaged(trainer, module.bfloat16()):
        assert module.weight.item() == 1
    assert callback._average_model.module.weight.item() == pytest.approx(1.001, abs=1e-6)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_half_precision_trains_and_exports(config, tmp_path, precision):
    assert cli.main(["fit", "-c", str(config), f"--trainer.precision={precision}"]) == 0
    kinds = {v.dtype for v in state(tmp_path)["state_dict"].values() if v.is_floating_point()}
    assert kinds == {torch.bfloat16 if precision == "bf16-true" else torch.float32}
    assert load_checkpoint(tmp_path / "run/checkpoints/step=0000004.ckpt")[0] is not None


def test_gradient_checkpointing_changes_no_weight(config, tmp_path):
    assert cli.main(["fit", "-c", str(config)]) == 0
    plain = state(tmp_path)["state_dict"]
    (tmp_path / "run").rename(tmp_path / "plain")
    assert cli.main(["fit", "-c", str(config), "--model.gradient_checkpointing=true"]) == 0
    assert all(torch.allclose(value, plain[name], atol=1e-6) for name, value in state(tmp_path)["state_dict"].items())


@pytest.mark.slow
def test_compiled_blocks_learn_the_same(config, tmp_path):
    assert cli.main(["fit", "-c", str(config)]) == 0
    plain = state(tmp_path)["state_dict"]
    (tmp_path / "run").rename(tmp_path / "plain")
    assert cli.main(["fit", "-c", str(config), "--model.compile=true"]) == 0
    assert all(torch.allclose(value, plain[name], atol=1e-4) for name, value in state(tmp_path)["state_dict"].items())


def test_throughput_agreement_and_a_profile_are_reported(config, tmp_path, caplog, capsys):
    with_callback(config, "Throughput", every=1)
    with_callback(config, "GradientAgreement", every=2)
    more = ["--trainer.profiler=simple", "--data.robot_share=rt2-palm-e", "--data.temperature=2"]
    assert cli.main(["fit", "-c", str(config), *more]) == 0
    assert "FIT Profiler Report" in caplog.text and "run_training_batch" in caplog.text
    assert re.search(r"throughput: [\d.]+ samples/s, \d+ tokens/s, [\d.]+% of the time waiting for data", capsys.readouterr().err)
    logged = list(csv.DictReader((tmp_path / "run/logs/metrics.csv").open()))
    shares = {row["data/robot_share_wanted"] for row in logged} - {""}
    assert [float(share) for share in shares] == [pytest.approx(0.66)]
    for name in (
        "throughput/samples_per_second",
        "throughput/tokens_per_second",
        "agreement/questions_robot",
        "data/robot_epochs",
        "data/questions_weight",
    ):
        assert name in logged[0], name


def test_products_computed_again_to_save_memory_are_not_counted(vlm):
    from torch.utils.flop_counter import FlopCounterMode

    from vla.training.callbacks import model_products

    def operations(counter, checkpointing):
        model = load_vlm(vlm)[0].train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        with counter:
            model(input_ids=torch.randint(20, 60, (2, 7))).logits.sum().backward()
        return counter.get_total_flops()

    plain = operations(model_products(), False)
    assert operations(model_products(), True) == plain == operations(FlopCounterMode(display=False), False)
    assert operations(FlopCounterMode(display=False), True) > plain


def test_measuring_agreement_changes_no_weight(config, tmp_path):
    assert cli.main(["fit", "-c", str(config)]) == 0
    plain = state(tmp_path)["state_dict"]
    (tmp_path / "run").rename(tmp_path / "plain")
    with_callback(config, "GradientAgreement", every=1)
    assert cli.main(["fit", "-c", str(config)]) == 0
    assert all(torch.equal(value, plain[name]) for name, value in state(tmp_path)["state_dict"].items())


def test_an_optimizer_that_is_not_installed_is_named(monkeypatch):
    for name in ("bitsandbytes", "bitsandbytes.optim"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"install vla\[lowbit\]"):
        make_optimizer("adamw8bit", [{"params": [torch.nn.Parameter(torch.zeros(2, 2))]}], fused=False)


def test_history_and_modes_train_and_travel_in_the_contract(config, tmp_path):
    more = ["--contract.history=2", "--contract.modes=[think, act, follow]", "--trainer.max_steps=2", "--model.warmup=1"]
    modes = "--data.sources.robot.init_args.modes={think: 0.4, act: 0.3, follow: 0.3}"
    assert cli.main(["fit", "-c", str(config), *more, modes]) == 0
    contract = json.loads((tmp_path / "run/contract.json").read_text())
    assert contract["history"] == 2 and contract["modes"] == ["think", "act", "follow"]
    model, processor, _ = load_checkpoint(tmp_path / "run/checkpoints/step=0000002.ckpt")
    assert model.config.history == processor.history == 2
