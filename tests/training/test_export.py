"""Exports: weights averaged with the base, adapters merged, types, the card; contracts of older versions."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vla.checkpoint import assemble, describe_model, read_checkpoint
from vla.cli import main
from vla.contract import NEW_FIELDS, SCHEMA, PolicyContract
from vla.errors import UserError
from vla.evaluation.run import open_policy
from vla.models.adapters import Lora, add_lora, merged
from vla.models.families.find import family_of
from vla.models.load import load_vlm, new_tiny
from vla.observation import Observation
from vla.policies.load import load_policy
from vla.policies.local import LocalPolicy
from vla.policies.trained_on import settings_for
from vla.report.offline import OfflineRecord
from vla.report.records import EpisodeRecord, Record
from vla.sequences.encode import Encoder
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.training.export import _with_adapters_apart, compare_merged, export, interpolated, prompts, weights_hash

CONTRACT = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=2, execute=1)


def checkpoint(path, vlm, lora=None, change=0.01, dtype=torch.float32):
    """A checkpoint as `vla fit` writes it, of weights that differ a little from the base's."""
    model, processor = load_vlm(vlm)
    lora = lora or Lora()
    described = describe_model(model, processor)
    model = add_lora(model, lora)
    model = model.to(dtype)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not lora.rank or "lora_B" in name:
                value.add_(change * torch.randn_like(value))
    content = {
        "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()},
        "contract": CONTRACT.to_dict(),
        "vlm": described,
        "lora": dataclasses.asdict(lora),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return content


def apart(content):
    """The model of a checkpoint, its adapters not merged."""
    return _with_adapters_apart(content, assemble(content, "")[0])


def weights(folder):
    return load_vlm(folder, dtype=torch.float32)[0].state_dict()


def test_alpha_goes_from_the_base_to_what_was_trained(tmp_path, vlm):
    content = checkpoint(tmp_path / "run/checkpoints/last.ckpt", vlm)
    ckpt, base = str(tmp_path / "run/checkpoints/last.ckpt"), weights(vlm)
    for alpha in (0.0, 0.5, 1.0):
        export(ckpt, str(tmp_path / f"{alpha}"), alpha=alpha, base=str(vlm))
        found = weights(tmp_path / f"{alpha}")
        for name, value in found.items():
            assert torch.allclose(value, (1 - alpha) * base[name] + alpha * content["state_dict"][f"model.{name}"], atol=1e-6), (
                name
            )
    card = (tmp_path / "0.5" / "README.md").read_text()
    assert CONTRACT.hash in card and weights_hash(base) in card and "base + 0.5" in card and "not evaluated" in card
    for wrong in ({"alpha": 0.5}, {"alpha": 1.5, "base": str(vlm)}):
        with pytest.raises(UserError, match="alpha"):
            export(ckpt, str(tmp_path / "no"), **wrong)
    with pytest.raises(UserError, match="other weights"):
        interpolated({"a": torch.zeros(2)}, {"a": torch.zeros(3)}, 0.5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_fewer_bytes_still_act(tmp_path, vlm, dtype):
    import numpy as np

    checkpoint(tmp_path / "run/checkpoints/last.ckpt", vlm)
    sizes = {}
    for kind in ("float32", dtype):
        export(str(tmp_path / "run/checkpoints/last.ckpt"), str(tmp_path / kind), dtype=kind)
        sizes[kind] = sum(p.stat().st_size for p in (tmp_path / kind).glob("*.safetensors"))
    # Integers are the language model's layers alone, of which this one has hardly any.
    assert sizes[dtype] < (1.0 if dtype == "int8" else 0.6) * sizes["float32"]
    policy = LocalPolicy.from_export(tmp_path / dtype)
    images = {c.name: np.zeros((64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}
    (chunk,) = policy.act([Observation("a", images, np.array([0, 0, 0.1, 0, 0.04]), "go")])
    assert chunk.actions.shape == (2, 7) and np.isfinite(chunk.actions).all()


def test_adapters_are_merged_and_compared_and_the_base_is_named(tmp_path, vlm):
    pytest.importorskip("peft")
    content = checkpoint(tmp_path / "run/checkpoints/last.ckpt", vlm, Lora(rank=2), change=0.3)
    ckpt = str(tmp_path / "run/checkpoints/last.ckpt")
    export(ckpt, str(tmp_path / "out"))
    card = (tmp_path / "out/README.md").read_text()
    assert "rank 2, merged" in card and weights_hash(weights(vlm)) in card
    changed = [n for n, v in weights(tmp_path / "out").items() if not torch.equal(v, weights(vlm)[n])]
    assert changed, "the adapters' product is in the weights"
    model = add_lora(load_vlm(vlm)[0], Lora(rank=2))
    family = family_of(*load_vlm(vlm))
    inputs = prompts(Encoder(CONTRACT, family))
    with pytest.raises(UserError, match="changes logits"):
        compare_merged(apart(content), merged(model), family, inputs)
    # Adapters of the image encoder alone are seen too.
    eyes = checkpoint(tmp_path / "eyes/checkpoints/last.ckpt", vlm, Lora(rank=2, targets=r".*\.project\.[02]"), change=0.3)
    with pytest.raises(UserError, match="changes logits"):
        compare_merged(apart(eyes), load_vlm(vlm)[0].eval(), family, inputs)


def test_adapters_alone_are_exported_and_acted_with(tmp_path, vlm):
    pytest.importorskip("peft")
    ckpt = str(tmp_path / "run/checkpoints/last.ckpt")
    checkpoint(tmp_path / "run/checkpoints/last.ckpt", vlm, Lora(rank=2, rows=[5, 6]), change=0.3)
    export(ckpt, str(tmp_path / "whole"))
    export(ckpt, str(tmp_path / "apart"), merge_lora=False, base=str(vlm))
    assert (tmp_path / "apart/adapter_model.safetensors").is_file() and not (tmp_path / "apart/model.safetensors").is_file()
    card = (tmp_path / "apart/README.md").read_text()
    assert "rank 2, apart" in card and f"| Base | {vlm} `{weights_hash(weights(vlm))}`" in card
    assert all(weight.requires_grad for weight in load_vlm(tmp_path / "apart")[0].parameters()), "a training may begin with it"
    whole, apart = weights(tmp_path / "whole"), weights(tmp_path / "apart")
    assert all(torch.allclose(whole[name], apart[name], atol=1e-6) for name in whole)
    images = {c.name: np.zeros((64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}
    observation = Observation("a", images, np.array([0, 0, 0.1, 0, 0.04]), "go")
    chunks = [LocalPolicy.from_export(tmp_path / name).act([observation])[0].actions for name in ("whole", "apart")]
    assert np.allclose(*chunks)
    other = new_tiny(load_vlm(vlm)[1].tokenizer, seed=1, text_config=load_vlm(vlm)[0].config.text_config.to_dict())
    for part in other:
        part.save_pretrained(tmp_path / "other")
    for base, message in (("", "does not say which model"), (str(tmp_path / "other"), "not those that were trained")):
        with pytest.raises(UserError, match=message):
            export(ckpt, str(tmp_path / "no"), merge_lora=False, base=base)
    narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    for part in new_tiny(load_vlm(vlm)[1].tokenizer, text_config=narrow):
        part.save_pretrained(tmp_path / "narrow")
    for base, message in (("narrow", "the adapters are not those of"), ("nowhere", "there is no such folder")):
        with pytest.raises(UserError, match=message) as error:
            export(ckpt, str(tmp_path / "no"), merge_lora=False, base=str(tmp_path / base))
        assert error.value.where == str(tmp_path / base) and "--base" in error.value.fix
    with pytest.raises(UserError, match="only adapters in float32"):
        export(ckpt, str(tmp_path / "no"), merge_lora=False, base=str(vlm), dtype="bfloat16")
    assert not (tmp_path / "no").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "peft", None)
        for needs in (lambda: load_vlm(tmp_path / "apart"), lambda: export(ckpt, str(tmp_path / "no"))):
            with pytest.raises(UserError, match="peft is not installed"):
                needs()
    # Another model of the same shapes in the base's folder.
    base, known = tmp_path / "base", json.loads((tmp_path / "apart/base.json").read_text())
    shutil.copytree(tmp_path / "other", base)
    (tmp_path / "apart/base.json").write_text(json.dumps({**known, "model": str(base)}))
    with pytest.raises(UserError, match="its weights are not those that the adapters were trained on"):
        load_vlm(tmp_path / "apart")
    (tmp_path / "apart/base.json").write_text(json.dumps({**known, "model": "./gone"}))
    with pytest.raises(UserError, match="the adapters' base cannot be loaded: there is no such folder"):
        load_vlm(tmp_path / "apart")
    for damaged in ("", "[]", '{"model": "tiny"}'):
        (tmp_path / "apart/base.json").write_text(damaged)
        with pytest.raises(UserError, match="does not say which model") as error:
            load_vlm(tmp_path / "apart")
        assert error.value.where == str(tmp_path / "apart/base.json")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_alone_of_a_run_in_half_precision(tmp_path, vlm, dtype):
    """Its base is stored in float32, and the run rounded it."""
    ckpt = str(tmp_path / "run/checkpoints/last.ckpt")
    checkpoint(tmp_path / "run/checkpoints/last.ckpt", vlm, Lora(rank=2, rows=[5, 6]), change=0.3, dtype=dtype)
    export(ckpt, str(tmp_path / "whole"))
    export(ckpt, str(tmp_path / "apart"), merge_lora=False, base=str(vlm))
    whole, apart = weights(tmp_path / "whole"), weights(tmp_path / "apart")
    assert all(torch.allclose(whole[name], apart[name], rtol=1e-4, atol=1e-6) for name in whole)
    known = json.loads((tmp_path / "apart/base.json").read_text())
    assert known["dtype"] == str(dtype).removeprefix("torch.")
    (tmp_path / "apart/base.json").write_text(json.dumps({**known, "dtype": "uint8"}))
    with pytest.raises(UserError, match="does not say which model"):
        load_vlm(tmp_path / "apart")


def test_adapters_on_4_bit_weights_are_exported_merged_only(tmp_path, vlm):
    path = tmp_path / "run/checkpoints/last.ckpt"
    content = checkpoint(path, vlm, Lora(rank=2))
    name = next(name for name in content["state_dict"] if name.endswith("base_layer.weight"))
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(content["state_dict"][name], quant_type="nf4")
    content["state_dict"] |= {name: packed, **{f"{name}.{part}": value for part, value in state.as_dict(packed=True).items()}}
    torch.save(content, path)
    export(str(path), str(tmp_path / "merged"))
    with pytest.raises(UserError, match="in 4 bits") as error:
        export(str(path), str(tmp_path / "no"), merge_lora=False, base=str(vlm))
    assert error.value.fix == "leave --merge_lora on" and not (tmp_path / "no").exists()


def test_a_policy_with_weights_of_another_model_is_refused(tmp_path, vlm):
    checkpoint(tmp_path / "run/checkpoints/last.ckpt", vlm)
    export(str(tmp_path / "run/checkpoints/last.ckpt"), str(tmp_path / "out"))
    file = tmp_path / "out/model.safetensors"
    save_file({**load_file(file), "foo.bar": torch.zeros(2)}, file, {"format": "pt"})
    with pytest.raises(UserError, match="the weights have what the model has not: foo.bar"):
        load_policy(tmp_path / "out")


def test_a_checkpoint_of_an_older_contract_is_exported_with_todays(tmp_path, vlm):
    content = checkpoint(tmp_path / "run/checkpoints/last.ckpt", vlm)
    new_fields = {name for fields in NEW_FIELDS.values() for name in fields}
    old = {name: value for name, value in CONTRACT.to_dict().items() if name not in new_fields}
    torch.save({**content, "contract": {**old, "schema": 1, "plan": "where"}}, tmp_path / "run/checkpoints/last.ckpt")
    export(str(tmp_path / "run/checkpoints/last.ckpt"), str(tmp_path / "out"))
    written = json.loads((tmp_path / "out/contract.json").read_text())
    assert written["schema"] == SCHEMA and written.keys() >= new_fields and written["decode"] == "mode"
    assert LocalPolicy.from_export(tmp_path / "out").contract.hash == CONTRACT.hash


def test_a_copy_decodes_otherwise_and_differs_in_that_alone(tmp_path, vlm):
    checkpoint(tmp_path / "run/checkpoints/last.ckpt", vlm)
    ckpt, old, new = str(tmp_path / "run/checkpoints/last.ckpt"), tmp_path / "old", tmp_path / "new"
    export(ckpt, str(old))
    assert PolicyContract.load(old).decode == "mode"
    said = export(str(old), str(new), decode="median")
    contract = PolicyContract.load(new)
    assert contract.hash[:12] in said and contract == dataclasses.replace(CONTRACT, decode="median")
    assert contract.hash != CONTRACT.hash == PolicyContract.load(old).hash
    files = {p.relative_to(old) for p in old.rglob("*") if p.is_file()}
    assert files == {p.relative_to(new) for p in new.rglob("*") if p.is_file()}
    assert {str(f) for f in files if (old / f).read_bytes() != (new / f).read_bytes()} == {"contract.json", "README.md"}
    card = (new / "README.md").read_text()
    assert contract.hash in card and f"contract `{CONTRACT.hash}`, which decodes by the mode" in card
    assert card.count("| Decodes |") == 1 and "by the median of their distribution" in card
    # A copy of a copy names the one that it was made of.
    export(str(new), str(tmp_path / "third"), decode="local-mean")
    card = (tmp_path / "third/README.md").read_text()
    assert card.count("| Copy of |") == card.count("| Decodes |") == 1 and contract.hash in card and CONTRACT.hash not in card
    # The same from the checkpoint itself.
    export(ckpt, str(tmp_path / "straight"), decode="median")
    assert PolicyContract.load(tmp_path / "straight") == contract
    rng = np.random.default_rng(0)
    images = {c.name: rng.integers(0, 256, (c.height, c.width, 3), np.uint8) for c in EMBODIMENT.cameras}
    acted = [LocalPolicy.from_export(f).act([Observation("a", images, np.zeros(5), "go")])[0] for f in (old, new)]
    assert not np.array_equal(acted[0].actions, acted[1].actions)
    assert load_policy(str(new), decode="median").contract == contract


def test_what_cannot_be_copied_or_asked_for_is_named(tmp_path, vlm, capsys):
    checkpoint(tmp_path / "run/checkpoints/last.ckpt", vlm)
    ckpt, old = str(tmp_path / "run/checkpoints/last.ckpt"), str(tmp_path / "old")
    export(ckpt, old)
    with pytest.raises(UserError, match=r"(?s)decode: mode, not median.*vla export --ckpt .*old --decode median --out"):
        load_policy(old, decode="median")
    for more in ({}, {"decode": "median", "dtype": "int8"}, {"decode": "median", "alpha": 0.5, "base": "tiny"}):
        with pytest.raises(UserError, match="only the decoding of an export can be changed"):
            export(old, str(tmp_path / "new"), **more)
    for inside in (old, f"{old}/a/b"):
        with pytest.raises(UserError, match="into itself"):
            export(old, inside, decode="median")
    with pytest.raises(UserError, match="says decode: mode already"):
        export(old, str(tmp_path / "new"), decode="mode")
    for name in ("expert", "random"):
        with pytest.raises(UserError, match="writes no tokens"):
            open_policy(name, 1, decode="median")
    assert main(["rollout", "--policy", old, "--decode", "median"]) == main(["serve", old, "--decode", "median"]) == 2
    assert capsys.readouterr().err.count("decode: mode, not median") == 2
    with pytest.raises(UserError, match="no contract found"):
        export(str(tmp_path / "run"), str(tmp_path / "new"), decode="median")
    contract = tmp_path / "old/contract.json"
    codec = {"codec": "numbers", "plan": [], "modes": ["act"]}
    contract.write_text(json.dumps({**json.loads(contract.read_text()), **codec}))
    with pytest.raises(UserError, match="no action token is ordinal: codec numbers"):
        export(old, str(tmp_path / "new"), decode="median")
    assert not (tmp_path / "new").exists()
    # Written by hand.
    contract.write_text(json.dumps({**json.loads(contract.read_text()), "decode": "median"}))
    with pytest.raises(UserError, match="no action token is ordinal: codec numbers"):
        load_policy(old)
    contract.write_text(json.dumps({**json.loads(contract.read_text()), "decode": "best"}))
    with pytest.raises(UserError, match="(?s)decode 'best'.*mode, median, local-mean"):
        load_policy(old)


def test_the_card_has_the_success_of_its_own_contract_only(tmp_path, vlm):
    checkpoint(tmp_path / "run/checkpoints/last.ckpt", vlm)
    (tmp_path / "run/logs").mkdir()
    told = "data:\n  robot_share: 0.4\n  sources:\n    robot:\n      init_args: {path: /somewhere/robot, weight: 2.0}\n"
    (tmp_path / "run/logs/config.yaml").write_text(told)
    episodes = [
        EpisodeRecord("lift", "seen", i, "correct", "go", "0" * 8, i < 9, 10, "" if i < 9 else "dropped") for i in range(10)
    ]
    more = {"batch": [1], "versions": {}, "episodes": episodes}
    Record("mine", "0" * 64, "p", CONTRACT.hash, **more).save(tmp_path / "good")
    Record("mine", "0" * 64, "p", "f" * 64, **more).save(tmp_path / "bad")
    ckpt = str(tmp_path / "run/checkpoints/last.ckpt")
    export(ckpt, str(tmp_path / "out"), results=str(tmp_path / "good"))
    card = (tmp_path / "out/README.md").read_text()
    assert "90 % of 10 (60 to 98 %)" in card and "robot: path robot, weight 2.0" in card and "0.4 of a batch" in card
    assert "/somewhere" not in card and "commit" in card
    Record("mine", "0" * 64, "p", CONTRACT.hash, **more, more={"execute": 2}).save(tmp_path / "executed")
    Record("mine", "0" * 64, "p", "f" * 64, **more, more={"contract_settings": {"decode": "median"}}).save(tmp_path / "decoded")
    for folder, says in (
        ("bad", "the evaluation is of contract f"),
        ("executed", "2 actions were executed of each chunk; this export executes 1\nFix: evaluate without --execute"),
        ("decoded", "decoded by the median; this export decodes by the mode"),
    ):
        with pytest.raises(UserError) as refused:
            export(ckpt, str(tmp_path / "out"), results=str(tmp_path / folder))
        assert f"{tmp_path / folder}: {says}" in str(refused.value)
    assert "90 % of 10" in (tmp_path / "out/README.md").read_text(), "the earlier export stays"


def test_the_card_tells_the_training_and_what_was_measured_of_the_export_alone(tmp_path, vlm):
    content = checkpoint(tmp_path / "run/checkpoints/last.ckpt", vlm)
    made = {"command": "vla fit -c mine.yaml", "commit": "abc", "versions": {"torch": "2.0"}}
    sources = {"robot": {"folder": "own", "holdout": 0.2}}
    ckpt = tmp_path / "run/checkpoints/last.ckpt"
    torch.save({**content, "made": {"data": sources, "share": 0.4, "made": made}}, ckpt)
    error = {name: {"rate": 0.1, "n": 3, "low": 0.0, "high": 0.2} for name in ("policy", "mean", "last", "nearest")}
    head = {"data": {"title": "own"}, "policy": "p", "contract": CONTRACT.hash, "decode": "mode", "episodes": []}
    for folder, execute in (("offline", 1), ("executed", 2)):
        OfflineRecord(**head, execute=execute, summary={"episodes": 3, "error": error}).save(tmp_path / folder)
    export(str(ckpt), str(tmp_path / "out"), results=str(tmp_path / "offline"))
    card = (tmp_path / "out/README.md").read_text()
    assert "- command: vla fit -c mine.yaml\n- commit: abc\n" in card and "- exported by: " in card and "- torch: 2.0" in card
    assert "- robot: folder own, holdout 0.2" in card and "0.4 of a batch" in card
    assert "| Held-out demonstrations | own: decoded error 0.100 (0.000 to 0.200) half ranges over 3 episodes" in card
    assert settings_for(str(tmp_path / "out"), "data/own") == sources["robot"]
    with pytest.raises(UserError, match="2 actions were executed of each chunk"):
        export(str(ckpt), str(tmp_path / "out"), results=str(tmp_path / "executed"))
    export(str(tmp_path / "out"), str(tmp_path / "copy"), decode="median")
    copy = (tmp_path / "copy/README.md").read_text()
    assert "decoded error" not in copy and "| Held-out demonstrations | not measured with this decoding" in copy
    assert "- command: vla fit -c mine.yaml" in copy and "- robot: folder own" in copy


def test_a_run_tells_its_checkpoints_and_its_export_how_it_was_made(trained_run, tmp_path, monkeypatch):
    made = read_checkpoint(trained_run / "checkpoints/last.ckpt")["made"]
    robot = made["data"]["robot"]
    assert (robot["folder"], robot["weight"], robot["holdout"]) == ("robot", 0.5, 0.25) and made["made"]["commit"]
    monkeypatch.setattr("sys.argv", ["vla", "export"])
    export(str(trained_run / "checkpoints/last.ckpt"), str(tmp_path / "out"))
    card = (tmp_path / "out/README.md").read_text()
    assert f"- command: {made['made']['command']}\n" in card and "- exported by: vla export, commit" in card
    assert "- robot: folder robot, weight 0.5" in card and "holdout 0.25" in card
