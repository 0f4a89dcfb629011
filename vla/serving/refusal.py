"""Errors that a client is told, with their HTTP status."""

from __future__ import annotations

from vla.errors import ContractMismatch, UserError


class Refusal(UserError):
    """A UserError with its own HTTP status.

    Args:
        retry_after: seconds after which the same request may be sent again; None: it will not fare better.
    """

    def __init__(self, status: int, what: str, where: str = "", fix: str = "", retry_after: float | None = None):
        super().__init__(what, where, fix)
        self.status, self.retry_after = status, retry_after


class PolicyFault(RuntimeError):
    """The policy's answer breaks its own contract: the server's fault, not the client's."""


def busy(what: str, retry_after: float) -> Refusal:
    """The server has no room now: 503, and when to come back."""
    return Refusal(503, f"busy: {what}", "server", f"retry after {retry_after:g} s", retry_after)


def late(seconds: float) -> Refusal:
    """The deadline passed: 504."""
    return Refusal(504, f"no answer within {seconds:g} s", "server", "allow more time, or ask less often", 1.0)


def refused(error: BaseException) -> Refusal:
    """Any error as what the client is told: never a traceback, and nothing of the policy's own failures but their kind.

    400 is a request that cannot be read, 422 one that does not fit the contract, 500 the policy's own failure.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, UserError):
        return Refusal(422 if isinstance(error, ContractMismatch) else 400, error.what, error.where, error.fix)
    return Refusal(500, f"the policy failed with {type(error).__name__}", "server", "see the server's log")
