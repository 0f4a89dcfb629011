"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """A mistake that the user can fix: what went wrong, where, and what to do about it.

    The command line prints the message without a traceback and exits with code 2.

    Args:
        what: what went wrong, with the offending value.
        where: the file, record or key it happened at ("" where it is nowhere in particular).
        fix: what to do about it ("" where nothing sensible can be said).
    """

    def __init__(self, what: str, where: str = "", fix: str = ""):
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.fix:
            parts.append(f"Fix: {self.fix}")
        return "\n".join(parts)


class Unreadable(UserError):
    """A record of a data set cannot be read: damaged, incomplete, or not as the card says. Others may be as they should."""


class ContractMismatch(UserError):
    """Two sides hold different contracts, or an observation does not fit the contract."""
