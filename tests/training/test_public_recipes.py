"""The recipes for public models train a toy of their family; 4-bit weights; blocks that are computed again."""

import dataclasses
import json
import shutil

import published
import published_openvla
import pytest
import torch
from resuming import fork

from vla import cli
from vla.checkpoint import assemble, read_checkpoint
from vla.datasets.card import DatasetCard
from vla.errors import UserError
from vla.models.blocks import blocks, compute_again
from vla.models.families.find import family_of
from vla.models.inputs import PREFIX, ModelInputs
from vla.models.load import load_vlm
from vla.training.module import VLAModule

pytest.importorskip("num2words")
RECIPES = {
    "paligemma-lora": "paligemma",
    "qwen2.5-vl-lora": "qwen2.5-vl",
    "smolvlm-full": "smolvlm",
    "openvla-lora": "openvla",
    "fsdp-7b": "qwen2.5-vl",
}
MORE = {
    "openvla-lora": ["--data.sources.robot.init_args.cameras=[front]"],
    "fsdp-7b": ["--trainer.devices=1", "--trainer.strategy.init_args.data_parallel_size=1"],
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Writes a toy as a folder."""

    def save(name):
        folder = tmp_path_factory.getbasetemp() / f"toy-{name}"
        if not folder.is_dir():
            if name == "openvla":
                published_openvla.save(folder, published_openvla.parts())
            else:
                for part in published.make(name):
                    part.save_pretrained(folder)
        return folder

    return save


def small(recipe, vlm, data, folder, *more):
    """A recipe's command on a toy, for one step on a CPU."""
    return [
        *("fit", "-c", f"configs/{recipe}.yaml", f"--model.vlm={vlm}", f"--data.sources.robot.init_args.folder={data / 'robot'}"),
        *("--data.sources.robot.init_args.holdout=0.25", "--data.batch_size=2", "--data.workers=0", "--data.val_samples=2"),
        *("--data.decoded_samples=1", "--trainer.accelerator=cpu", "--trainer.max_steps=1", "--trainer.val_check_interval=1"),
        *("--trainer.accumulate_grad_batches=1", f"--trainer.default_root_dir={folder}", "--trainer.logger=false", "--export="),
        *(f"--trainer.callbacks=[{{class_path: vla.training.saving.Checkpoints, init_args: {{dirpath: {folder}, every: 1}}}}]",),
        *more,
    ]


@pytest.fixture(scope="module")
def robot_data(data, tmp_path_factory):
    """The robot data with the statistics that OpenVLA's bins need."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(data / "robot", folder / "robot")
    card = DatasetCard.load(folder / "robot")
    spaces = {}
    for name in ("state", "action"):
        space = getattr(card.spec, name)
        ranges = {"q01": space.low, "q99": space.high, "min": space.low, "max": space.high}
        width = len(space.names)
        spaces[name] = dataclasses.replace(space, statistics={**ranges, "mean": (0.0,) * width, "std": (1.0,) * width})
    dataclasses.replace(card, spec=dataclasses.replace(card.spec, **spaces)).save(folder / "robot")
    return folder


@pytest.mark.parametrize(("recipe", "name"), RECIPES.items())
def test_a_recipe_trains_a_toy_of_its_family(recipe, name, saved, robot_data, tmp_path):
    # In a process of its own: one rank of several leaves its environment behind.
    assert fork(small(recipe, saved(name), robot_data, tmp_path, *MORE.get(recipe, []))) == [0]
    adapters = any("lora_" in name for name in read_checkpoint(tmp_path / "step=0000001.ckpt")["state_dict"])
    assert adapters == ("lora" in recipe)


@pytest.mark.parametrize("name", published.FAMILIES)
def test_blocks_computed_again_give_the_same_gradients(name):
    model, processor = published.make(name)
    family = family_of(model, processor)
    picture = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8).numpy()
    ids = torch.tensor([[*family.image_ids([(64, 64)])[0], *range(300, 312)]])
    group = torch.full_like(ids, PREFIX)
    group[:, -4:] = 0
    inputs = ModelInputs(ids, torch.ones_like(ids), dict(family.images([[picture]])), group, torch.zeros_like(ids))

    def gradients():
        model.train().zero_grad()
        family.score(model, inputs, group == 0).logsumexp(-1).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain, called = gradients(), [0] * len(blocks(model))
    for i, block in enumerate(blocks(model)):
        # Hooks of a block itself stay outside of its checkpoint.
        next(iter(block.children())).register_forward_pre_hook(lambda *_, i=i: called.__setitem__(i, called[i] + 1))
    compute_again(model)
    again = gradients()
    assert plain.keys() == again.keys() and all(torch.allclose(plain[n], again[n], atol=1e-6) for n in plain)
    # Each ran twice; the vision network's last ones may not be needed.
    text = [n for block, n in zip(blocks(model), called, strict=True) if any(block is m for m in model.get_decoder().modules())]
    assert text and set(text) == {2}


def test_four_bit_weights_train_adapters_go_on_and_become_floats_again(saved, data, tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    run = ["--model.quantise=4bit", "--trainer.precision=32-true", "--trainer.max_steps=2"]
    command = small("paligemma-lora", saved("paligemma"), data, tmp_path, *run)
    assert cli.main(command) == 0
    checkpoint = read_checkpoint(tmp_path / "step=0000002.ckpt")
    packed = [name for name, value in checkpoint["state_dict"].items() if value.dtype == torch.uint8 and name.endswith(".weight")]
    assert packed
    model, _, _ = assemble(checkpoint, "here")
    plain = VLAModule(str(saved("paligemma")))
    plain.build()
    before, after = plain.model.state_dict(), model.state_dict()
    assert all(value.is_floating_point() for value in after.values())
    # NF4 is off by at most half of the widest gap between its levels, 0.152, of the largest weight in 64.
    name = next(name for name in after if "language_model" in name and "q_proj" in name)
    assert (after[name] - before[name]).abs().max() < 0.2 * before[name].abs().max()
    # It goes on, and ends alike.
    first = checkpoint["state_dict"]
    (tmp_path / "step=0000002.ckpt").unlink()
    assert cli.main([*command, f"--ckpt_path={tmp_path / 'step=0000001.ckpt'}"]) == 0
    again = read_checkpoint(tmp_path / "step=0000002.ckpt")["state_dict"]
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert cli.main(["export", "--ckpt", str(tmp_path / "step=0000002.ckpt"), "--out", str(tmp_path / "export")]) == 0


def test_quantised_weights_are_not_asked_to_learn_in_full(saved, tmp_path):
    import json

    folder = tmp_path / "quantised"
    shutil.copytree(saved("paligemma"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (folder / "config.json").write_text(json.dumps(config))
    module = VLAModule(str(folder))
    with pytest.raises(UserError, match="quantised by gptq"):
        module.build()
    with pytest.raises(UserError, match="do not learn in full"):
        VLAModule(str(folder), quantise="4bit")


def test_a_processor_that_lacks_a_package_says_so(saved, monkeypatch):
    from transformers.models.smolvlm import processing_smolvlm

    folder = saved("smolvlm")
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(UserError, match="(?s)num2words.*vla\\[public\\]"):
        load_vlm(folder)


def test_a_sequence_beyond_the_context_is_one_error_on_a_line_of_its_own(saved, data, tmp_path, capsys):
    folder = shutil.copytree(saved("smolvlm"), tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    assert cli.main(small("smolvlm-full", folder, data, tmp_path)) == 2
    lines = capsys.readouterr().err.split("\n")
    assert any(line.startswith("error: prompt: a sequence has") for line in lines)
