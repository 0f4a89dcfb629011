"""The robot-side client of `vla serve`, and of any server that speaks openpi's websocket protocol."""

from .chunks import RecedingHorizon, TemporalEnsemble
from .connection import Connection, ServerError, Unreachable
from .robot import Robot, drive
from .safety import Guard, Limits, Refused

__all__ = [
    "Connection",
    "Guard",
    "Limits",
    "RecedingHorizon",
    "Refused",
    "Robot",
    "ServerError",
    "TemporalEnsemble",
    "Unreachable",
    "drive",
]
