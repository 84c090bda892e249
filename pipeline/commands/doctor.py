"""`glot doctor`: what this machine has for glot, and what to do about what it lacks."""

from __future__ import annotations

import typer

from pipeline.commands.console import answer, say


def doctor() -> None:
    """Look at versions, devices, DGL, models, the hub, disks and extras; exit code 1 where glot cannot work here."""
    from pipeline.doctor import Finding, examine

    findings: list[Finding] = []
    for finding in examine():
        if not findings or findings[-1].area != finding.area:
            say(finding.area)
        mark = "x" if finding.broken else "!" if finding.advice else " "
        say(f"{mark} {finding.name:<18}{finding.value}")
        if finding.advice:
            say(f"{'':<20}-> {finding.advice}")
        findings.append(finding)
    broken = [finding.name for finding in findings if finding.broken]
    say(f"glot cannot work here: see {', '.join(broken)}" if broken else "glot works here")
    answer({"works": not broken, "findings": findings})
    if broken:
        raise typer.Exit(1)
