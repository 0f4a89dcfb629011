"""Model folders, tokenizers, adapters and exports."""

from __future__ import annotations

import json
import shutil

from outside.project import OWN, project, trained
from outside.trial import Trial, case

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def refused(trial: Trial, *more: str, **checks) -> str:
    """Trains with the folder `model`, which must be refused in one line."""
    output = trial.vla("fit", "-c", "fit.yaml", "--model.vlm=model", *more, code=2, **checks)
    trial.true(f"no line begins with `error`: {output[-300:]}", any(line.startswith("error") for line in output.splitlines()))
    return output


def model(trial: Trial) -> None:
    """A project with a model folder of its own."""
    project(trial)
    shutil.copytree(trial.folder / "export", trial.folder / "model")


@case("huggingface/transformers#42381")
def a_configuration_without_model_type(trial: Trial) -> None:
    """config.json without model_type is named in one line, without the list of all models."""
    model(trial)
    path = trial.folder / "model/config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "model_type"}))
    output = refused(trial, says="model_type")
    trial.true("it lists every model of transformers", len(output) < 3000)


@case()
def a_configuration_that_is_no_json(trial: Trial) -> None:
    """A config.json that is cut off is named."""
    model(trial)
    path = trial.folder / "model/config.json"
    path.write_text(path.read_text()[:40])
    refused(trial, says=r"config\.json|JSON")


@case("lyogavin/airllm#137")
def weights_that_are_cut_off(trial: Trial) -> None:
    """A truncated model.safetensors is named in one line, for training and serving."""
    model(trial)
    path = trial.folder / "model/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    refused(trial, says="model")
    trial.vla("serve", "model", "--port=0", code=2, says="model")


@case("codefuse-ai/MFTCoder#20")
def weights_that_are_a_pointer(trial: Trial) -> None:
    """model.safetensors that git cloned without LFS is named as a pointer, for training and serving."""
    model(trial)
    (trial.folder / "model/model.safetensors").write_bytes(POINTER)
    refused(trial, says="git lfs")
    trial.vla("serve", "model", "--port=0", code=2, says="git lfs")


@case()
def weights_that_are_missing(trial: Trial) -> None:
    """A folder without weights, or with pickled ones alone, is refused."""
    model(trial)
    (trial.folder / "model/model.safetensors").rename(trial.folder / "model/pytorch_model.bin")
    refused(trial, says="safetensors")


@case()
def weights_of_another_size(trial: Trial) -> None:
    """Weights that do not fit config.json are named, not drawn anew."""
    model(trial)
    path = trial.folder / "model/config.json"
    config = json.loads(path.read_text())
    config["text_config"]["hidden_size"] = 32
    path.write_text(json.dumps(config))
    refused(trial)


@case()
def a_tokenizer_that_is_missing(trial: Trial) -> None:
    """A folder without its tokenizer is named in one line."""
    model(trial)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (trial.folder / "model" / name).unlink()
    refused(trial, says="model|tokenizer")


@case()
def a_folder_with_an_adapter_alone(trial: Trial) -> None:
    """A folder of peft's adapter is no model: the message says so."""
    project(trial)
    (trial.folder / "model").mkdir()
    (trial.folder / "model/adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "some/base", "peft_type": "LORA"})
    )
    (trial.folder / "model/adapter_model.safetensors").write_bytes(b"")
    refused(trial, says="model found|adapter")


@case("huggingface/lerobot#3459")
def an_adapter_on_another_base(trial: Trial) -> None:
    """A checkpoint with adapters does not resume without them, or with others; nothing is drawn anew."""
    trained(trial, lambda recipe: recipe["model"].update(lora={"rank": 2}))
    trial.vla(
        "fit",
        "-c",
        "fit.yaml",
        "--ckpt_path=last",
        "--trainer.max_steps=4",
        "--model.lora.rank=4",
        code=2,
        says="lora|adapter|rank",
    )
    trial.vla(
        "fit", "-c", "fit.yaml", "--ckpt_path=last", "--trainer.max_steps=4", "--model.lora=null", code=2, says="lora|adapter"
    )


@case()
def a_public_model(trial: Trial) -> None:
    """A public vision-language model, which cannot be trained yet, or is not here and not to be had, is refused by name."""
    project(trial)
    trial.vla("fit", "-c", "fit.yaml", "--model.vlm=google/paligemma-3b-pt-224", code=2, says="paligemma", limit=60)


@case()
def a_public_tokenizer_offline(trial: Trial) -> None:
    """A public tokenizer that cannot be had is named in one line."""
    project(trial, lambda recipe: recipe["model"].update(vlm={**OWN, "tokenizer": "bert-base-nowhere"}))
    trial.vla("fit", "-c", "fit.yaml", code=2, says="bert-base-nowhere", limit=60)


@case()
def a_network_that_timm_does_not_have(trial: Trial) -> None:
    """A misspelt vision_name, and sizes that do not fit, end in one line."""
    project(trial, lambda recipe: recipe["model"].update(vlm={**OWN, "vision_name": "resnet19"}))
    trial.vla("fit", "-c", "fit.yaml", code=2, says="resnet19")
    project_again = {**OWN, "text_config": {**OWN["text_config"], "num_attention_heads": 3}}
    import yaml

    path = trial.folder / "fit.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["model"]["vlm"] = project_again
    path.write_text(yaml.safe_dump(recipe))
    trial.vla("fit", "-c", "fit.yaml", code=2, says="head")


@case("openvla/openvla#87")
def an_export_without_its_contract(trial: Trial) -> None:
    """An export without contract.json is not served with guessed statistics."""
    model(trial)
    (trial.folder / "model/contract.json").unlink()
    trial.vla("serve", "model", "--port=0", code=2, says="contract")


@case("openvla/openvla#87")
def a_contract_that_was_edited(trial: Trial) -> None:
    """A contract with limits that are no limits is refused with its key."""
    model(trial)
    path = trial.folder / "model/contract.json"
    contract = json.loads(path.read_text())
    contract["embodiments"]["panda-tabletop"]["action"]["low"][0] = 5.0
    path.write_text(json.dumps(contract))
    trial.vla("serve", "model", "--port=0", code=2, says="low|limit|action")


@case()
def a_path_with_an_equals_sign(trial: Trial) -> None:
    """`vla serve RUN/checkpoints/step=0000002.ckpt` and `vla export --ckpt` take the name that we gave."""
    from outside.clients import served

    trained(trial)
    with served(trial, "run/checkpoints/step=0000002.ckpt") as url:
        trial.true("it does not answer", url)
    trial.vla("export", "--ckpt=run/checkpoints/step=0000002.ckpt", "--out=again")
