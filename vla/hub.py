"""The Hugging Face hub: addresses of policies, models and data sets, the commit that one means, and local copies of the files.

A policy or a model is OWNER/NAME, a data set hf://datasets/OWNER/NAME, or a folder in it, with /FOLDER. NAME may
be followed by @REVISION: a branch, a tag or a commit. Files are kept in the hub's own cache (HF_HOME) and fetched once; with
HF_HUB_OFFLINE they are only read from there. A token is taken from HF_TOKEN or from `hf auth login`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from vla.errors import UserError

DESCRIPTIONS = ("*.json", "card.yaml", "README.md")
"""What says what a repository holds. These files are small."""
POLICY = (*DESCRIPTIONS, "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken")
"""The files of a policy or a model. Weights are safetensors; the state of an optimizer and pickled files are not among them."""
NEVER = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "optimizer*", "*/optimizer*", "checkpoint-*/*", "original/*")
"""What is not fetched, whatever asks for it."""
PART = r"[A-Za-z0-9][\w.-]*"
POLICIES = re.compile(rf"(hf://)?(?P<repo>{PART}/{PART})(@(?P<revision>.+))?")
DATA_SETS = re.compile(rf"hf://datasets/(?P<repo>{PART}/{PART})(@(?P<revision>refs/[^/]+/[^/]+|[^/]+))?(/(?P<path>.*))?")
FILES = (".ckpt", ".safetensors", ".gguf", ".pt", ".pth", ".bin", ".yaml", ".yml", ".json", ".tar")
"""How a name ends that is a file's."""


class Unreachable(UserError):
    """The hub does not answer, or has a fault: another try may succeed."""


@dataclasses.dataclass(frozen=True)
class Address:
    """A repository on the hub, and which revision of it.

    Attributes:
        repo: OWNER/NAME.
        kind: whether it holds a policy or model, or a data set.
        revision: a branch, a tag or a commit; "" is the default branch.
        path: the folder in a data set's repository; "" is all of it.
        bare: whether it was written without hf://, so that a folder on this machine may have been meant.
    """

    repo: str
    kind: Literal["model", "dataset"]
    revision: str = ""
    path: str = ""
    bare: bool = False

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self._start}{self.repo}{revision}{self._end}"

    @property
    def name(self) -> str:
        """The address without a revision."""
        return f"{self._start}{self.repo}{self._end}"

    @property
    def _start(self) -> str:
        return "hf://datasets/" if self.kind == "dataset" else ""

    @property
    def _end(self) -> str:
        return f"/{self.path}" if self.path else ""

    @property
    def page(self) -> str:
        """The web page of the repository."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' * (self.kind == 'dataset')}{self.repo}"


def address(name: str | Path) -> Address | None:
    """Reads an address that begins with hf://; None for anything else.

    Raises:
        UserError: it begins with hf:// and is no address.
    """
    text = str(name)
    if text.startswith("hf://datasets/"):
        if match := DATA_SETS.fullmatch(text):
            path = (match["path"] or "").strip("/")
            return Address(match["repo"], "dataset", (match["revision"] or "").replace("%2F", "/"), path)
        fix = "give hf://datasets/OWNER/NAME, with @REVISION and /FOLDER if needed"
        raise UserError("not the address of a data set", text, fix)
    if not text.startswith("hf://"):
        return None
    if match := POLICIES.fullmatch(text):
        return Address(match["repo"], "model", match["revision"] or "")
    raise UserError("not an address on the hub", text, "give hf://OWNER/NAME, or hf://datasets/OWNER/NAME for data")


def policy_address(name: str | Path) -> Address | None:
    """Reads the address of a policy or a model, which may lack hf://; None for a folder, a file or another kind of address.

    A folder that is there comes first, and OWNER/NAME is not on the hub if there is a folder OWNER here. What follows "?" are
    options of a published checkpoint.

    Raises:
        UserError: as `address`.
    """
    text = str(name).partition("?")[0]
    match = POLICIES.fullmatch(text)
    if text.startswith("hf://") or not match:
        return address(text)
    if os.path.exists(text) or os.path.isdir(text.partition("/")[0]) or text.endswith(FILES):
        return None
    return Address(match["repo"], "model", match["revision"] or "", bare=True)


def pinned(name: str | Path) -> str:
    """Returns an hf:// address with the commit that it means now; any other name as it is. In one process it means one commit.

    Raises:
        UserError: there is no such repository or revision, it may not be read, or the hub cannot be reached and its cache has not
            seen it.
    """
    remote = address(name)
    return str(_at_commit(remote)) if remote else str(name)


def pinned_policy(name: str | Path) -> str:
    """Returns the name of a policy or a model with its commit, as `pinned` does."""
    remote, (_, mark, options) = policy_address(name), str(name).partition("?")
    return f"{_at_commit(remote)}{mark}{options}" if remote else str(name)


def without_revision(name: str | Path) -> str:
    """Returns an hf:// address without its revision; of a path, the last part."""
    remote = address(name)
    return remote.name if remote else Path(name).name


def recorded(name: str | Path) -> str:
    """Returns what a record says of data: an address with its commit; of a path, which belongs to a machine, the last part."""
    return pinned(name) if address(name) else Path(name).name


def local(name: str | Path, patterns: Sequence[str] = POLICY) -> Path:
    """Returns the folder of a policy or model; of one on the hub, that of its files, which are fetched if they are not here.

    Args:
        name: a folder, or OWNER/NAME with @REVISION if needed.
        patterns: which files are needed.

    Raises:
        UserError: as `pinned`; or the connection broke off.
    """
    remote = policy_address(name)
    return _folder(_at_commit(remote), tuple(patterns)) if remote else Path(name)


@functools.lru_cache
def file_names(name: str) -> tuple[str, ...]:
    """Returns the names of all files in the repository of a policy or model, also of those that are never fetched; () for a
    folder, and with HF_HUB_OFFLINE.

    Raises:
        UserError: as `local`.
    """
    from huggingface_hub import HfApi, constants

    remote = policy_address(name)
    if not remote or constants.is_offline_mode():
        return ()
    remote = _at_commit(remote)
    with plain_errors(remote):
        return tuple(HfApi().list_repo_files(remote.repo, revision=remote.revision))


def weights_folder(name: str | Path, patterns: Sequence[str] = POLICY) -> Path:
    """Returns the folder of a model, as `local` does, whose weights are safetensors if it is on the hub.

    Raises:
        UserError: as `local`; or the repository has no safetensors.
    """
    folder = local(name, patterns)
    if policy_address(name) and not any(folder.glob("*.safetensors")):
        fix = "choose a revision or another repository with *.safetensors; pickled weights are never loaded"
        raise UserError("it has no weights as safetensors", pinned_policy(name), fix)
    return folder


def data_set(name: str | Path, patterns: Sequence[str] = ("*",)) -> Path:
    """Returns the folder of a data set, as `local` does for a policy.

    Args:
        name: a folder or file, or an address hf://datasets/OWNER/NAME.
        patterns: which files of the folder are needed.

    Raises:
        UserError: as `local`; or there is no such folder in the repository.
    """
    remote = address(name)
    if not remote:
        return Path(name)
    if remote.kind != "dataset":
        raise UserError("a policy or model, not a data set", str(name), "the address of data is hf://datasets/OWNER/NAME")
    remote = _at_commit(remote)
    below = [f"{remote.path}/{pattern}" for pattern in patterns] if remote.path else patterns
    # A single file may be named, too.
    folder = _folder(remote, (*below, *([remote.path] if remote.path else ()))) / remote.path
    if not folder.exists() and "*" in patterns:
        raise UserError("there is no such folder in the repository", str(remote), f"look at {remote.page}")
    return folder


def copy_file(name: str, target: Path) -> None:
    """Copies a single file of a data set's repository, e.g. hf://datasets/OWNER/NAME/shard-000000.tar, past the cache.

    Raises:
        UserError: as `local`.
        FileNotFoundError: there is no such file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    remote = address(name)
    assert remote is not None
    remote = _at_commit(remote)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".hub-") as folder:
        try:
            with plain_errors(remote):
                file = hf_hub_download(
                    remote.repo, remote.path, repo_type=remote.kind, revision=remote.revision, local_dir=folder
                )
        except UserError as error:
            if isinstance(error.__cause__, RemoteEntryNotFoundError):
                raise FileNotFoundError("there is no such file") from None
            raise
        os.replace(file, target)


@functools.lru_cache
def _at_commit(remote: Address) -> Address:
    from huggingface_hub import HfApi

    with plain_errors(remote):
        resolved = HfApi().resolve_revision(remote.repo, repo_type=remote.kind, revision=remote.revision or None)
    return dataclasses.replace(remote, revision=resolved.resolved, bare=False)


@functools.lru_cache
def _folder(remote: Address, patterns: tuple[str, ...]) -> Path:
    """The folder of a repository in the cache, with the files that match."""
    from huggingface_hub import snapshot_download

    with plain_errors(remote):
        folder = snapshot_download(
            remote.repo,
            repo_type=remote.kind,
            revision=remote.revision,
            allow_patterns=list(patterns),
            ignore_patterns=list(NEVER),
        )
    return Path(folder)


@contextlib.contextmanager
def plain_errors(remote: Address) -> Iterator[None]:
    """Makes a UserError of what the hub's client raises."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (explained := _explained(error, remote)) is None:
            raise
        raise explained from error


def _explained(error: BaseException, remote: Address) -> UserError | None:
    """What went wrong, and what to do; None if it is not the hub's or the connection's."""
    from huggingface_hub import constants, errors

    where, login = str(remote), "set HF_TOKEN, or run `hf auth login`"
    nowhere = "there is no such folder here, and " * remote.bare
    if isinstance(error, errors.GatedRepoError):
        fix = f"accept the conditions on {remote.page}; then {login}"
        return UserError("its owner gives access only to those who ask", where, fix)
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"{nowhere}the hub has no such repository for this account", where, f"check the name; if it is private, {login}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(
            f"there is no revision {remote.revision}", remote.name, f"name a branch, a tag or a commit; see {remote.page}"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return UserError("a file that it should have is not there", where, f"look at {remote.page}")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UserError("the hub is not asked, for HF_HUB_OFFLINE is set", where, "run it without HF_HUB_OFFLINE")
    if constants.is_offline_mode() and isinstance(error, errors.LocalEntryNotFoundError | errors.RevisionResolutionError):
        return UserError(
            f"{nowhere}it is not in the hub's cache; HF_HUB_OFFLINE is set", where, "run it once without HF_HUB_OFFLINE"
        )
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        if status == 401:
            return UserError("the hub does not accept the token", where, login)
        if status == 403:
            return UserError("the token does not permit this", where, f"take one that may, e.g. with write access; {login}")
        why = error.server_message or f"status {status}"
        if status >= 500 or status in (408, 429):
            return Unreachable(f"the hub cannot answer now: {why}", where, "try again later")
        return UserError(f"the hub refuses: {why}", where, f"look at {remote.page}")
    if isinstance(error, errors.HFValidationError):
        return UserError(f"not a name that the hub allows: {error}", where, "give OWNER/NAME")
    if error.__cause__ is not None and (explained := _explained(error.__cause__, remote)):
        return explained
    # The class beneath HfHubHTTPError is that of the HTTP library, which is not everywhere the same.
    of_connections = (errors.HfHubHTTPError.__mro__[1], ConnectionError, errors.RevisionResolutionError)
    # The client's own errors about files have no number, the system's do: a full disk is not the hub's.
    if not isinstance(error, of_connections) and not (isinstance(error, OSError) and error.errno is None):
        return None
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return Unreachable(f"{nowhere}the hub cannot be reached: {why}", where, "check the connection; what has been fetched is kept")
