"""YAML whose numbers are those of version 1.2: 1e-3 is a number. PyYAML follows version 1.1, where it is a text."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import ComposerError

# Longer ones, such as a commit's hash, are texts.
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,17}(?:\.[0-9]*)?|\.[0-9]{1,17})[eE][-+]?[0-9]{1,2}\Z")


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        # An alias of a node that has not ended.
        if node is not None and node.end_mark is None:
            raise ComposerError(None, None, "an alias to what it is part of", node.start_mark)
        return node


class _Dumper(yaml.SafeDumper):
    pass


for each in (_Loader, _Dumper):
    each.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def load(text: str) -> Any:
    """Parses one document into plain types; yaml.YAMLError if it is malformed, nested too deeply or contains itself."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def dump(data: Any, **options: Any) -> str:
    """Writes plain types so that `load` gives them back: a text that looks like a number is quoted."""
    return yaml.dump(data, Dumper=_Dumper, **options)
