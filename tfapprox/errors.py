"""Errors that a user can act on, told apart from faults of the program."""


class UserError(ValueError):
    """A mistake or limit outside the program: bad path, bad plan, infeasible budget.

    The message is one line. It names the culprit, what was found, what is
    accepted, and the way out. The command line prints it without a traceback
    and exits with status 2.
    """


class InfeasibleBudgetError(UserError):
    """No selection meets the budget. `floor` is the smallest cost that can be reached."""

    def __init__(self, message: str, floor: float):
        super().__init__(message)
        self.floor = floor


class VerificationError(RuntimeError):
    """The rewritten model was read back and does not do what it should (exit status 1)."""
