"""From what the user names (an export, a checkpoint, a server) to a policy. Torch is imported only where it is needed."""

from __future__ import annotations

from pathlib import Path

from vla.errors import UserError
from vla.policies.base import Policy


def load_policy(name: str, batch: int = 1) -> Policy:
    """The policy that `name` stands for.

    Args:
        name: a folder that `vla export` wrote, a checkpoint (*.ckpt) of `vla fit`, or the http address of `vla serve`.
        batch: rows per call of a local model.

    Raises:
        UserError: nothing of the kind is there.
    """
    if name.startswith(("http://", "https://")):
        from vla.policies.remote import RemotePolicy

        return RemotePolicy(name)
    path = Path(name)
    if path.is_dir():
        from vla.policies.local import LocalPolicy

        return LocalPolicy.from_export(path, batch)
    if path.suffix == ".ckpt":
        from vla.policies.local import LocalPolicy
        from vla.training.checkpoint import load_checkpoint

        return LocalPolicy(*load_checkpoint(path), batch=batch)
    raise UserError("no such policy", name, "give an export's folder, a .ckpt file, or the http address of a server")
