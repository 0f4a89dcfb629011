"""Errors that are sent to a client, with their HTTP status."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from vla.errors import ContractMismatch, UserError


class Refusal(UserError):
    """A UserError with an HTTP status.

    Args:
        retry_after: seconds after which the same request may succeed; None if it will not.
    """

    def __init__(self, status: int, what: str, where: str = "", fix: str = "", retry_after: float | None = None):
        super().__init__(what, where, fix)
        self.status, self.retry_after = status, retry_after


class PolicyFault(RuntimeError):
    """The policy's answer does not fit its own contract. This is the server's fault, not the client's."""


def busy(what: str, retry_after: float) -> Refusal:
    """Returns a 503: the server has no capacity now."""
    return Refusal(503, f"busy: {what}", "server", f"retry after {retry_after:g} s", retry_after)


def too_late(seconds: float) -> Refusal:
    """Returns a 504: the deadline has passed."""
    return Refusal(504, f"no answer within {seconds:g} s", "server", "allow more time, or send fewer requests", 1.0)


def disconnected() -> Refusal:
    """Returns a 499: the client hung up before its answer. Nobody receives this; it is for logs and metrics."""
    return Refusal(499, "the client disconnected", "request")


def as_refusal(error: BaseException) -> Refusal:
    """Returns any error as the client sees it: without a traceback, and of a policy's failure only the type.

    400 is a request that cannot be read, 422 one that does not fit the contract, 499 a client that is gone, 500 a failure of the
    policy.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ClientDisconnect | WebSocketDisconnect):
        return disconnected()
    if isinstance(error, UserError):
        return Refusal(422 if isinstance(error, ContractMismatch) else 400, error.what, error.where, error.fix)
    return Refusal(500, f"the policy failed with {type(error).__name__}", "server", "see the server's log")
