"""README's commands, run one after another in a folder, each timed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PORT = 8123


class Commands:
    """Runs commands in a folder and keeps what they took.

    Attributes:
        seconds: command -> seconds.
    """

    def __init__(self, folder: Path):
        self.folder, self.seconds = folder, {}
        self.environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'client/src'}", "PYTHONUNBUFFERED": "1"}
        folder.mkdir(parents=True, exist_ok=True)

    def vla(self, *arguments: str) -> str:
        """Runs `vla …`; returns its standard output."""
        return self.run(" ".join(["vla", *arguments]), [sys.executable, "-m", "vla", *arguments])

    def run(self, name: str, line: list[str]) -> str:
        """Runs a command; returns its standard output.

        Raises:
            SystemExit: it failed; its output has been printed.
        """
        print(f"$ {name}", file=sys.stderr, flush=True)
        began = time.perf_counter()
        done = subprocess.run(line, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True)
        self.seconds[name] = round(time.perf_counter() - began, 1)
        print(done.stdout, file=sys.stderr, flush=True)
        if done.returncode:
            raise SystemExit(f"{name}: exit code {done.returncode}")
        return done.stdout

    def serve_and_call(self, export: str, instruction: str) -> str:
        """Serves an export, drives the client's simulated robot with it for 20 steps, and ends the server."""
        began = time.perf_counter()
        line = [sys.executable, "-m", "vla", "serve", export, "--port", str(PORT)]
        server = subprocess.Popen(line, cwd=self.folder, env=self.environment)
        try:
            _wait_for(f"http://127.0.0.1:{PORT}/healthz", server)
            self.seconds[f"vla serve {export}"] = round(time.perf_counter() - began, 1)
            client = str(ROOT / "client/examples/robot_loop.py")
            return self.run("robot_loop.py", [sys.executable, client, f"ws://127.0.0.1:{PORT}", instruction, "20"])
        finally:
            server.terminate()
            server.wait(30)


def _wait_for(url: str, server: subprocess.Popen) -> None:
    """Waits until a server answers."""
    end = time.monotonic() + 120
    while server.poll() is None and time.monotonic() < end:
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit("vla serve did not start")
