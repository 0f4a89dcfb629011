"""`vla export --push`: uploads an export to the Hugging Face hub."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from vla import hub
from vla.errors import UserError

WEIGHTS = "*.safetensors*"


def check_push(name: str) -> hub.Address:
    """Checks, before any work, that something can be uploaded to a name.

    Raises:
        UserError: it is not OWNER/NAME, there is no token, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token

    match = hub.POLICIES.fullmatch(name)
    if not match or match["revision"]:
        raise UserError("not a repository's name", f"--push {name}", "give OWNER/NAME")
    target = hub.Address(match["repo"], "model")
    if not get_token():
        raise UserError("there is no token of an account", f"--push {name}", "set HF_TOKEN, or run `hf auth login`")
    with hub.plain_errors(target):
        HfApi().whoami()
    return target


def push_export(folder: str | Path, name: str, public: bool = False) -> str:
    """Uploads an export in one commit, which replaces the weights of an earlier one.

    Args:
        folder: the export.
        name: OWNER/NAME of the repository. It is made if it is not there.
        public: whether a new repository is public.

    Returns:
        The address and the commit, in sentences.

    Raises:
        UserError: the folder is no export, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    folder = Path(folder)
    files = _files(folder)
    target, api = check_push(name), HfApi()
    with hub.plain_errors(target):
        api.create_repo(target.repo, private=not public, exist_ok=True)
        there = api.model_info(target.repo)
        old = [one.rfilename for one in there.siblings or [] if fnmatch.fnmatch(one.rfilename, WEIGHTS)]
        add = [CommitOperationAdd(path, _content(folder / path, target.repo)) for path in files]
        remove = [CommitOperationDelete(path) for path in old if path not in files]
        commit = api.create_commit(target.repo, [*add, *remove], commit_message=_message(folder))
    seen = "private" if there.private else "public"
    note = f"; it was there and stays {seen}" if bool(there.private) == public else ""
    return "\n".join(
        [
            f"pushed: {target.page} ({seen}{note}), commit {commit.oid}",
            f"next: vla rollout --policy {target.repo}@{commit.oid} --suite SUITE --out FOLDER",
        ]
    )


def _files(folder: Path) -> list[str]:
    """The files of an export to upload: those that are read back, and no others.

    Raises:
        UserError: the folder is no export.
    """
    files = sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    kept = [name for name in files if any(fnmatch.fnmatch(name, pattern) for pattern in hub.POLICY)]
    whole = {"contract.json", "config.json"} <= set(kept) or "rl.json" in kept
    if not whole or not any(fnmatch.fnmatch(name, "*.safetensors") for name in kept):
        raise UserError("the folder is no export", str(folder), "give one that `vla export` or `vla rl fit` wrote")
    return kept


def _content(path: Path, repo: str) -> str | bytes:
    """A file's path; of the card, its text with the command for this repository."""
    if path.name != "README.md":
        return str(path)
    return path.read_text(encoding="utf-8").replace("THIS_FOLDER", repo).encode()


def _message(folder: Path) -> str:
    contract = folder / "contract.json"
    if not contract.is_file():
        return "An export of vla"
    from vla.contract import PolicyContract

    return f"An export of vla, contract {PolicyContract.load(contract).hash[:12]}"
