"""What a robot needs to be driven by `vla serve`, or by any server of openpi's websocket protocol."""

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
