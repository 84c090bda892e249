"""The two kinds of foreseeable error; `glot.commands.app` prints either as one line and exits with its code."""

from __future__ import annotations


class GlotError(Exception):
    """A foreseeable error whose message says what is wrong, where, and what to do, in one line.

    `is_lasting`: the same work would end with it again.
    """

    exit_code = 1
    is_lasting = False


class UsageError(GlotError):
    """The command, its options or its input are wrong: exit code 2."""

    exit_code = 2
    is_lasting = True


class Stopped(GlotError):
    """Long work was asked to stop and has saved where it is: exit code 130, as for Ctrl-C."""

    exit_code = 130

    def but(self, advice: str) -> Stopped:
        """The same with other advice on how to go on, which follows what was stopped and a semicolon."""
        return Stopped(f"{str(self).partition(';')[0]}; {advice}")


class FaultError(GlotError):
    """The machine failed (disk, memory, network, a damaged file): exit code 1."""


class AccessError(GlotError):
    """A file or folder is there and this user may not read it, or not write to it: exit code 1.

    No `FaultError`, so that nobody takes what may not be read for damaged and makes it anew.
    """


def reason_of(error: BaseException, most: int = 200) -> str:
    """What an error of a library says, in one line for a message; its kind where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def kind_and_reason(error: BaseException) -> str:
    """An error of a library in one line, its kind first: "ImportError: no module named dgl"."""
    return " ".join(f"{type(error).__name__}: {error}".split())
