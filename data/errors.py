"""The two ways a run ends badly that are not bugs. Everything else that escapes is a bug."""

import errno
import reprlib

from data.names import printable

# The disk, a quota or a limit on files takes no more.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """What the user gave is wrong. Scripts print it without a traceback and exit with status 2.

    Args:
        found: what was found, with the offending value.
        where: the flag, gin binding, file or image it was found in.
        expected: what would have been accepted.
        do: the next thing to type or change.
    """

    exit_status = 2

    def __init__(self, found: str, *, where: str, expected: str, do: str):
        super().__init__(found)
        self.found, self.where, self.expected, self.do = found, where, expected, do

    def __str__(self) -> str:
        rows = (("where", self.where), ("expected", self.expected), ("do", self.do))
        lines = "\n".join([self.found, *(f"  {name + ':':<10}{text}" for name, text in rows)]).split("\n")
        # Names of files may hold anything, also what would command a terminal.
        return "\n".join(map(printable, lines))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it, in place of where in the program it was found."""
        return f"error: {self}".split("\n")


class RunFailure(UserError):
    """The environment or the numerics gave out (disk full, out of memory, NaN): exit status 3.

    `where` names the last good checkpoint, `do` how to go on from it.
    """

    exit_status = 3


def expect(binding: str, value: object, holds: object, expected: str) -> None:
    """Refuses the value of a gin binding that does not hold.

    Raises:
        UserError: see there.
    """
    if not holds:
        raise UserError(
            f"{binding} = {reprlib.repr(value)}",
            where=f"gin binding {binding}",
            expected=expected,
            do=f"correct it in the recipe, or --gin_param='{binding} = ...'",
        )
