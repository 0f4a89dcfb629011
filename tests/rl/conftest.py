"""Options that differ in one part."""

import dataclasses

import pytest


@pytest.fixture(scope="session")
def changed():
    """`changed(options, seed=1, budget__steps=3)`: two underscores lead into a part."""

    def change(options, **values):
        for name, value in values.items():
            part, _, inner = name.partition("__")
            new = dataclasses.replace(getattr(options, part), **{inner: value}) if inner else value
            options = dataclasses.replace(options, **{part: new})
        return options

    return change
