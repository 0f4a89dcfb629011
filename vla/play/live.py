"""The session as all browsers share it: its pace, what they ask for, and the newest state."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Callable

from vla.errors import UserError
from vla.play.session import Session
from vla.protocols.wire import Value, read_json
from vla.serving.observations import read_text
from vla.serving.refusal import as_refusal
from vla.serving.thread import PolicyThread

log = logging.getLogger("vla.play")
SPEEDS = (0.1, 100.0)
"""The slowest and the fastest pace, in control periods of the robot; the fastest is as fast as the machine can."""
RECENT = 0.1
"""Weight of the newest step in the measured frames per second."""


class Live:
    """Runs a session in one thread for the event loop that shows it.

    Attributes:
        playing: whether steps follow each other.
        speed: how many control periods pass in one of the robot's.
        browsers: how many watch; with the last the session pauses.
        trouble: what went wrong last; "" since something went well.
    """

    def __init__(self, session: Session):
        self.session, self.thread = session, PolicyThread()
        self.playing, self.speed, self.browsers, self.trouble = False, 1.0, 0, ""
        self.fps = 0.0
        self._shown: tuple[dict, list[bytes]] = session.state(), session.frames()
        self._version = 0
        self._changed = asyncio.Condition()
        self._driver: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Call it within the event loop."""
        self._driver = asyncio.create_task(self._drive())

    async def close(self) -> None:
        """Ends after the step in progress."""
        if self._driver:
            self._driver.cancel()
        await self.thread.close()

    async def enter(self) -> None:
        """A browser has come."""
        self.browsers += 1
        await self._publish()

    async def leave(self) -> None:
        """A browser has gone."""
        self.browsers -= 1
        self.playing = self.playing and self.browsers > 0
        await self._publish()

    async def newer(self, version: int) -> tuple[int, str, list[bytes]]:
        """Waits for a state that is newer than a version: its version, its JSON, its images."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._version > version)
        state, frames = self._shown
        shared = {"playing": self.playing, "speed": self.speed, "browsers": self.browsers, "trouble": self.trouble}
        return self._version, json.dumps({**state, **shared, "fps": round(self.fps, 1), "frames": len(frames)}), frames

    async def do(self, request: str) -> None:
        """Carries out what a browser asks for, JSON: {"do": one of the names here, and what it needs}. Errors are the trouble."""
        await self._run(lambda: self._do(read_json(request, "request")))

    def _do(self, fields: Value) -> None:
        if not isinstance(fields, dict):
            raise UserError("not a JSON object", "request")
        session, text, number = self.session, functools.partial(read_text, fields), functools.partial(_number, fields)
        actions: dict[str, Callable[[], None]] = {
            "play": lambda: self._pace(True, self.speed),
            "pause": lambda: self._pace(False, self.speed),
            "speed": lambda: self._pace(self.playing, number("speed", *SPEEDS)),
            "step": session.step,
            "again": session.begin,
            "scene": lambda: session.choose(text("suite"), text("variation"), text("task"), int(number("scene", 0, 2**31 - 1))),
            "tell": lambda: session.tell(" ".join(text("instruction").split())),
            "hand over": lambda: session.hand_over(text("player"), text("actor")),
            "ask": lambda: session.ask(text("question")),
            "save": session.save,
        }
        if (name := text("do")) not in actions:
            raise UserError(f"unknown request {name[:60]!r}", "do", f"one of {', '.join(actions)}")
        actions[name]()

    def _pace(self, playing: bool, speed: float) -> None:
        self.playing, self.speed = playing, speed

    async def _drive(self) -> None:
        """Steps while it is played and somebody goes on."""
        clock, before = asyncio.get_running_loop().time, 0.0
        while True:
            async with self._changed:
                if not self._goes_on():
                    before = 0.0
                await self._changed.wait_for(self._goes_on)
            began = clock()
            if before:
                self.fps += (RECENT if self.fps else 1.0) * (1 / (began - before) - self.fps)
            before = began
            if not await self._run(self.session.step):
                self.playing = False
                await self._publish()
            period = 1 / (self.session.spec.control_hz * self.speed)
            await asyncio.sleep(max(0.0, began + period - clock()))

    def _goes_on(self) -> bool:
        return self.playing and not self.session.over

    async def _run(self, action: Callable[[], None]) -> bool:
        """Runs an action in the session's thread and shows what has become of it; returns whether it went well."""

        def run() -> tuple[str, tuple[dict, list[bytes]]]:
            trouble = ""
            try:
                action()
            except Exception as error:
                if not isinstance(error, UserError):
                    log.exception("%s failed", action)
                refusal = as_refusal(error)
                trouble = (
                    (f"{refusal.where}: " if refusal.where else "") + refusal.what + (f". {refusal.fix}" if refusal.fix else "")
                )
            return trouble, (self.session.state(), self.session.frames())

        self.trouble, self._shown = await self.thread.call(run)
        await self._publish()
        return not self.trouble

    async def _publish(self) -> None:
        async with self._changed:
            self._version += 1
            self._changed.notify_all()


def _number(fields: dict[str, Value], name: str, least: float, most: float) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UserError(f"{name} {str(value)[:20]}", name, f"give {least:g} to {most:g}")
    return value
