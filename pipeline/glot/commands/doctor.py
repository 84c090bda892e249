"""`glot doctor`: what this machine has for glot, and what to do about what it lacks."""

from __future__ import annotations

from itertools import groupby

import typer

from glot.commands.console import answer, say

NAME_WIDTH = 18  # of the first column, where no name is longer


def doctor() -> None:
    """Look at versions, devices, DGL, models, the hub, disks and extras; exit code 1 where glot cannot work here."""
    from glot.doctor import Finding, examine

    findings: list[Finding] = []
    for area, some in groupby(examine(), key=lambda finding: finding.area):  # said an area at a time, as it is found
        found = list(some)
        findings += found
        say(area)
        width = max(NAME_WIDTH, *(len(finding.name) + 2 for finding in found))
        for finding in found:
            mark = "x" if finding.broken else "!" if finding.advice else " "
            say(f"{mark} {finding.name:<{width}}{finding.value}")
            if finding.advice:
                say(f"{'':<{width + 2}}-> {finding.advice}")
    broken = [finding.name for finding in findings if finding.broken]
    say(f"glot cannot work here: see {', '.join(broken)}" if broken else "glot works here")
    answer({"works": not broken, "findings": findings})
    if broken:
        raise typer.Exit(1)
