"""`vla play`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import webbrowser
from collections.abc import Iterator

from vla.commands.serve import names_and_paths
from vla.commands.sim import offer
from vla.errors import UserError
from vla.evaluation.run import open_policy
from vla.folders import check_writable
from vla.sim.suites import load_suite


@dataclasses.dataclass(frozen=True)
class Play:
    """The policies, the first scene, and where the page is.

    Attributes:
        policy: what acts, as for `vla rollout`: an export's folder, OWNER/NAME, a checkpoint, an address, "expert" or "random"
            (the default). Give it several times, or NAME=POLICY,NAME=POLICY, for several in the same scene.
        suite: name of the suite to begin with, or a .yaml file.
        port: port of the page on this machine; 0 takes a free one.
        out: folder for what is saved.
        open: open the page in this machine's browser, if there is a screen.
        yes: install the simulator's packages without asking, if they are missing.
    """

    policy: list[str] = dataclasses.field(default_factory=list)
    suite: str = "rt2/seen"
    port: int = 8080
    out: str = "runs/play"
    open: bool = True
    yes: bool = False


def play(options: Play) -> None:
    """Opens a page on which policies act live, on what you tell them."""
    from vla.play.server import play as run
    from vla.play.session import Session
    from vla.serving.logs import log_to_stderr
    from vla.sim.workers import Workers

    check_writable(options.out, "--out")
    suite, paths = load_suite(options.suite), _paths(options.policy or ["random"])
    offer(suite.tasks, options.yes)

    @contextlib.contextmanager
    def open_session() -> Iterator[Session]:
        policies = {name: open_policy(path, 1, suite.tasks, probabilities=True) for name, path in paths.items()}
        with Workers(len(policies)) as workers, contextlib.closing(Session(policies, suite, workers, options.out)) as session:
            yield session

    log_to_stderr()
    run(open_session, options.port, lambda url: _tell(url, options.open))


def _paths(policies: list[str]) -> dict[str, str]:
    """Name -> policy, in the order given."""
    paths: dict[str, str] = {}
    for given in policies:
        for name, path in names_and_paths(given).items():
            if name in paths:
                raise UserError(f"two policies are called {name}", given, "give each its own NAME=")
            paths[name] = path
    return paths


def _tell(url: str, open_it: bool) -> None:
    print(f"play at {url} (Ctrl-C ends it)", flush=True)
    # A browser in the terminal would take it over.
    if open_it and (sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))):
        webbrowser.open(url)
