"""Says where a later configuration replaces what an earlier one lists. Only single values are merged."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from vla import yaml12
from vla.commands.configs import Node

PARTS = {
    "trainer.callbacks": "`callbacks+:` adds to the list",
    "data.sources": "name them all, or add one as `--data.sources.NAME.class_path=…`",
    "collect": "name them all",
}
"""Lists and tables of a configuration, and what to do instead of replacing them."""


def say_what_is_replaced(argv: Sequence[str]) -> None:
    """Prints a note for each list or table that a later configuration, or an option, sets without some of the earlier parts.

    Args:
        argv: arguments with the paths of the configurations.
    """
    known: dict[str, list[str]] = {path: [] for path in PARTS}
    for where, path, adds, names in _settings(argv):
        gone = [] if adds else [name for name in known[path] if name not in names]
        if gone:
            print(f"note: {where} replaces `{path}`, without {', '.join(gone)} ({PARTS[path]})", file=sys.stderr)
        known[path] = [*known[path], *names] if adds else names


def _settings(argv: Sequence[str]) -> Iterator[tuple[str, str, bool, list[str]]]:
    """Yields, for every setting of a list or table: the file or option, its path, whether it only adds, and the parts' names."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        value = value if equals else following
        if option in ("-c", "--config"):
            content = yaml12.load(Path(value).read_text())
            for path in PARTS:
                for key in (path, f"{path}+"):
                    given, node = _find(content, key)
                    if given:
                        yield value, path, key != path, _names(node)
        elif (path := option.removeprefix("--").removesuffix("+")) in PARTS:
            yield option, path, option.endswith("+"), _names(value)


def _find(node: Node, path: str) -> tuple[bool, Node]:
    for key in path.split("."):
        if not isinstance(node, dict) or key not in node:
            return False, None
        node = node[key]
    return True, node


def _names(node: Node) -> list[str]:
    """The keys of a table, or the classes of a list or of one part; of an option's value, the classes that it names."""
    if node in (None, "null"):
        return []
    if isinstance(node, dict):
        return [str(node["class_path"]).rpartition(".")[2]] if "class_path" in node else list(node)
    if isinstance(node, str) and node[:1] in ("[", "{"):
        return _names(yaml12.load(node))
    return [name for part in node for name in _names(part)] if isinstance(node, list) else [str(node).rpartition(".")[2]]
