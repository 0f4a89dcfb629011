"""The exception for mistakes of the user."""


class UserError(Exception):
    """A mistake that the user can fix. The command line prints it without a traceback and exits with code 2.

    Args:
        what: what went wrong, with the offending value.
        where: the file, record, option or key at fault; "" if none in particular.
        fix: what to do about it; "" if there is nothing to suggest.
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
    """A record of a data set is damaged, incomplete, or not as the card says. Other records may be intact."""


class ContractMismatch(UserError):
    """Two contracts differ, or an observation or an action does not fit the contract."""
