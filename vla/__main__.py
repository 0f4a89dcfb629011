"""`python -m vla` is `vla`."""

from vla.cli import entry

entry()
