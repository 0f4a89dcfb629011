"""Loads the policy that a user names: an export, a checkpoint, a server. Torch is imported only if needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla import hub
from vla.contract import Embodiment, PolicyContract
from vla.errors import UserError
from vla.models.openvla.published import is_published
from vla.policies.base import DTypeOption, Policy, check_execute
from vla.policies.openvla_checkpoint import Checkpoint, load_openvla

KNOWN = """an export's folder, OWNER/NAME on the hub, a .ckpt file, an OpenVLA checkpoint's folder, \
http://… of `vla serve`, ws://… of an openpi server, openvla+http://…, or random"""


def load_policy(
    name: str | Path,
    batch: int | Sequence[int] = 1,
    embodiments: dict[str, Embodiment] | None = None,
    probabilities: bool = False,
    decode: str = "",
    execute: int = 0,
    dtype: DTypeOption = "",
) -> Policy:
    """Loads a policy. What is asked of a local policy's contract is checked before its weights are loaded.

    Args:
        name: a folder of `vla export` or `vla rl fit`, such an export on the hub (OWNER/NAME or OWNER/NAME@REVISION), a
            checkpoint (*.ckpt) of `vla fit`, the folder of a published OpenVLA checkpoint
            (`openvla_checkpoint.Checkpoint.find`), the http address of `vla serve`, the ws address of any server of openpi's
            protocol, openvla+http of any server of OpenVLA's, or "random".
        batch: rows per call of a local model; of several sizes, a call takes the smallest that fits.
        embodiments: the robots to be driven, for policies that do not declare theirs.
        probabilities: whether a local model reports the probability of each written token.
        decode: the `decode` its contract must have; "" accepts any.
        execute: number of actions that will be executed of each chunk; 0 is the contract's.
        dtype: in which a model of this process computes; "" is float32.

    Raises:
        UserError: there is no such policy, its `decode` is another, its chunks are shorter, or it computes in its own `dtype`.
    """
    name = str(name)
    folder = _described(name)
    if decode and (name == "random" or (folder / "rl.json").is_file()):
        raise no_tokens(name)
    if contract := stated_contract(name):
        _check(contract, name, decode, execute)
    if dtype and (name == "random" or "://" in name or (folder / "rl.json").is_file()):
        raise UserError("the policy computes in its own type", name, "leave out --dtype")
    policy = _load(name, batch, embodiments, probabilities, dtype)
    if getattr(policy, "says_contract", True):
        _check(policy.contract, name, decode, execute)
    elif decode:
        raise no_tokens(name)
    return policy


def _described(name: str) -> Path:
    """The folder of a policy; of one on the hub, without its weights.

    Raises:
        UserError: it is on the hub and is no policy.
    """
    folder = hub.local(name, hub.DESCRIPTIONS)
    known = is_published(folder) or any((folder / file).is_file() for file in ("contract.json", "rl.json"))
    if hub.policy_address(name) and not known:
        fix = "name an export that `vla export --push` wrote; a model to train from is named in model.vlm"
        raise UserError("not a policy: it has no contract.json", hub.pinned_policy(name), fix)
    return folder


def stated_contract(name: str) -> PolicyContract | None:
    """Returns the contract of an export or a checkpoint, without loading its weights; None for any other policy.

    Raises:
        UserError: it cannot be read.
    """
    if Checkpoint.find(name):
        return None
    path = _described(name)
    if name and path.is_dir():
        # A head of other spaces than a robot's has none.
        return PolicyContract.load(path) if (path / "contract.json").is_file() or not (path / "rl.json").is_file() else None
    if path.is_file():
        from vla.checkpoint import read_checkpoint

        return PolicyContract.from_dict(read_checkpoint(path, mmap=True)["contract"], name)
    return None


def _check(contract: PolicyContract, name: str, decode: str, execute: int) -> None:
    if decode and contract.decode != decode:
        copy = f"`vla export --ckpt {'EXPORT' if '://' in name else name} --decode {decode} --out FOLDER` writes a copy with it"
        fix = f"serve another export there: {copy}" if "://" in name else copy
        raise UserError(f"its contract says decode: {contract.decode}, not {decode}", name, fix)
    check_execute(contract, execute, name)


def no_tokens(name: str) -> UserError:
    """Returns the error for `--decode` with a policy that writes no tokens, or does not declare how it decodes them."""
    return UserError("the policy writes no tokens, or does not declare how it decodes them", name, "leave out --decode")


def _load(
    name: str, batch: int | Sequence[int], embodiments: dict[str, Embodiment] | None, probabilities: bool, dtype: DTypeOption
) -> Policy:
    scheme = name.partition("://")[0]
    if scheme in ("http", "https"):
        from vla.policies.remote import RemotePolicy

        return RemotePolicy(name)
    if name == "random" or scheme in ("ws", "wss", "openvla+http", "openvla+https"):
        if not embodiments:
            raise UserError("the policy does not say for which robot it is", name, "use it in `vla rollout` only")
        return _load_for(name, scheme, embodiments)
    if checkpoint := Checkpoint.find(name):
        return load_openvla(checkpoint, batch, embodiments, probabilities, name, dtype)
    path = hub.local(name)
    if (path / "rl.json").is_file():
        from vla.policies.prompted import PromptedPolicy

        return PromptedPolicy.from_export(path, batch)
    if name and path.is_dir():
        from vla.policies.local import LocalPolicy

        return LocalPolicy.from_export(path, batch, probabilities, dtype=dtype)
    if path.suffix == ".ckpt" or path.is_file():
        from vla.checkpoint import load_checkpoint
        from vla.policies.local import LocalPolicy, default_device, torch_type

        model, processor, contract = load_checkpoint(path)
        model = model.to(default_device(), torch_type(dtype))
        return LocalPolicy(model, processor, contract, batch=batch, probabilities=probabilities)
    raise UserError("no such policy", name, f"give {KNOWN}")


def _load_for(name: str, scheme: str, embodiments: dict[str, Embodiment]) -> Policy:
    if name == "random":
        from vla.policies.random import RandomPolicy

        return RandomPolicy(embodiments)
    if scheme in ("ws", "wss"):
        from vla.policies.openpi import OpenpiPolicy

        return OpenpiPolicy(name, embodiments)
    from vla.policies.openvla import OpenVLAPolicy

    return OpenVLAPolicy(name.removeprefix("openvla+"), embodiments)
