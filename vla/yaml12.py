"""YAML whose numbers are those of version 1.2: 1e-3 is a number. PyYAML follows version 1.1, where it is a text."""

from __future__ import annotations

import re
from typing import Any

import yaml

# Longer ones, such as a commit's hash, are texts.
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,17}(?:\.[0-9]*)?|\.[0-9]{1,17})[eE][-+]?[0-9]{1,2}\Z")


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    pass


for each in (_Loader, _Dumper):
    each.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def load(text: str) -> Any:
    """Parses one document into plain types; yaml.YAMLError if it is malformed."""
    return yaml.load(text, _Loader)


def dump(data: Any, **options: Any) -> str:
    """Writes plain types so that `load` gives them back: a text that looks like a number is quoted."""
    return yaml.dump(data, Dumper=_Dumper, **options)
