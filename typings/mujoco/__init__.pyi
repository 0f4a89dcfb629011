"""MuJoCo's bindings are compiled and carry no types: pyright takes every name as it comes."""

from typing import Any

def __getattr__(name: str) -> Any: ...
