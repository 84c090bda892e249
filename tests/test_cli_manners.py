"""How every command behaves: quiet, verbose, JSON, colours, completion, exit codes."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from scipy.stats import binomtest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "pipeline"
FIT = ["--epochs", 1, "--hidden", 8, "--out", "runs/a"]


def _run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
    command = [sys.executable, "-m", "glot", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def test_json_is_the_whole_of_standard_output(glot: Callable[..., tuple], extracted: Path) -> None:
    code, out, err = glot("fit", "--cache", extracted, *FIT, "--seeds", "0,1", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [run["run"] for run in found["runs"]] == ["runs/a/seed-0", "runs/a/seed-1"]
    metrics = json.loads(Path("runs/a/seed-1/metrics.json").read_text())
    assert found["runs"][1]["best"] == metrics["best"]
    assert "epochs" not in found["runs"][1]

    code, out, _ = glot("--json", "evaluate", "--run", "runs/a", "--cache", extracted)
    scored = json.loads(out)
    assert code == 0
    assert scored["runs"][1]["scores"]["accuracy"] == pytest.approx(metrics["best"]["validation"]["accuracy"])

    code, out, _ = glot("sweep", "--cache", extracted, "--tau", "0.3,0.9", "--epochs", 1, "--hidden", 8, "--json")
    trials = json.loads(out)["trials"]
    assert {trial["settings"]["tau"] for trial in trials} == {"0.3", "0.9"}
    assert all(0 <= trial["scores"][0] <= 1 for trial in trials)

    code, out, _ = glot("predict", "--run", "runs/a/seed-0", "--cache", extracted, "--json")
    assert json.loads(out)["predictions"] == 10
    assert json.loads(glot("inspect", extracted, "--json")[1])["texts"] > 100
    assert json.loads(glot("cache", "copy", extracted, "copied", "--json")[1])["folder"] == "copied"


def test_json_of_an_extraction(glot: Callable[..., tuple], table: Path, backbone_folders: dict[str, Path]) -> None:
    data = ["--model", backbone_folders["bert"], "--data", table, "--text", "sentence", "--label", "kind"]
    code, out, err = glot("extract", *data, "--max-tokens", 24, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["folder"] == "cache/train/tiny-bert"
    assert found["forwarded"] == found["distinct"] > 100


def test_quiet_work_says_nothing_and_a_question_is_answered(glot: Callable[..., tuple], extracted: Path) -> None:
    assert glot("--quiet", "fit", "--cache", extracted, *FIT, "--tau", 1) == (0, "", "")  # and no warning of τ
    assert Path("runs/a/head.safetensors").is_file()
    code, out, err = glot("evaluate", "--run", "runs/a", "--cache", extracted, "--quiet")
    assert (code, err) == (0, "")
    assert "accuracy" in out
    code, out, err = glot("fit", "--quiet", "--cache", "nowhere")
    assert (code, out) == (2, "")
    assert err.startswith("glot: ")
    code, out, _ = glot("fit", "--cache", extracted, *FIT[:-1], "runs/b")
    assert "parameters trained" in out  # the next command is not quiet any more


def test_verbose_shows_the_traceback_of_a_fault_and_the_time_of_a_success(tmp_path: Path) -> None:
    wrong = _run("inspect", tmp_path / "nowhere")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
    told = _run("inspect", tmp_path / "nowhere", "--verbose")
    assert told.returncode == 2
    assert "Traceback" in told.stderr
    assert told.stderr.splitlines()[-1] == wrong.stderr.splitlines()[-1]
    done = _run("--verbose", "reproduce", "--dry-run", GLUE_DIR="")
    assert done.returncode == 0
    assert "s of the processor" in done.stderr
    assert "took" not in done.stdout


@pytest.mark.slow
def test_verbose_lets_the_libraries_speak(
    glot: Callable[..., tuple], table: Path, backbone_folders: dict[str, Path]
) -> None:
    command = ["extract", "--model", backbone_folders["bert"], "--data", table, "--text", "sentence"]
    command += ["--label", "kind", "--max-tokens", 24, "--limit", 8, "--out"]
    loud = _run(*command, table.parent / "loud", "--verbose")
    assert loud.returncode == 0, loud.stderr
    assert "loading" in loud.stderr.lower()
    code, _, err = glot(*command, "still")
    assert (code, err) == (0, "")


def test_bars_of_a_quiet_run_stay_away() -> None:
    from glot.commands.progress import extract_bars

    def written(quiet: bool) -> str:
        screen = io.StringIO()
        terminal = Console(file=screen, force_terminal=True, quiet=quiet)
        with extract_bars(terminal, "extract") as (tokens, _):
            tokens(1, 2)
        return screen.getvalue()

    assert "extract" in written(quiet=False)
    assert written(quiet=True) == ""


def test_bars_show_the_rate_the_workers_and_the_time_left() -> None:
    from glot.commands.progress import extract_bars

    seconds = itertools.count()
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120, get_time=lambda: float(next(seconds)))
    with extract_bars(terminal, "extract") as (tokens, _):
        tokens.rename("extract, 3 workers")
        for done in (10, 20, 30):
            tokens(done, 100)
        tokens.progress.refresh()
    drawn = screen.getvalue().rpartition("extract, 3 workers")[2]
    assert re.search(r"30%.*\d tokens/s.*\d:\d\d:\d\d", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)), drawn


def test_colours_are_for_terminals_that_want_them() -> None:
    code = "from glot.commands.console import screen; screen.print('[red]x[/red]')"

    def colour(**variables: str) -> bool:
        environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
        environment |= {"PYTHONPATH": str(PACKAGE), "TERM": "xterm-256color", **variables}
        pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
        ours, theirs = pty.openpty()
        subprocess.run([sys.executable, "-c", code], env=environment, stdout=theirs, check=True, timeout=60)
        os.close(theirs)
        written = os.read(ours, 2**16)
        os.close(ours)
        return b"\x1b[31m" in written

    assert colour()
    assert not colour(NO_COLOR="1")
    piped = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
    )
    assert piped.stdout == b"x\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    shown = _run("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert shown.returncode == 0, shown.stderr
    assert "_GLOT_COMPLETE" in shown.stdout


def test_completion_knows_commands_and_options() -> None:
    def complete(line: str) -> list[str]:
        variables = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        return _run(_GLOT_COMPLETE="complete_bash", **variables).stdout.split()

    assert complete("glot in") == ["inspect"]
    assert complete("glot fit --prec") == ["--precision"]
    assert complete("glot fit --js") == ["--json"]


def test_every_command_takes_the_shared_options() -> None:
    from glot.commands import app as cli

    tree = cli.command_tree()
    groups = [tree, *(command for command in tree.commands.values() if hasattr(command, "commands"))]
    commands = [command for group in groups for command in group.commands.values()]
    assert len(commands) > 12
    for command in commands:
        options = {name for parameter in command.params for name in parameter.opts}
        assert {"--quiet", "--verbose", "--json"} <= options, command.name


# What has states, forwards or trains; the others read and write files alone.
COMPUTES = {"train", "extract", "fit", "sweep", "tune", "evaluate", "encode", "predict", "export", "serve", "explain"}
COMPUTES |= {"stress", "reproduce"}


def test_one_meaning_a_word() -> None:
    """Everywhere --text is a column of a table, --device where it is computed, --out and --output where it goes."""
    from glot.commands import app as cli

    tree, texts = cli.command_tree(), 0
    assert set(tree.commands) > COMPUTES
    for name, command in tree.commands.items():
        options = {option: parameter for parameter in command.params for option in parameter.opts}
        assert ("--device" in options) >= (name in COMPUTES), name
        assert ("--out" in options) == ("--output" in options), name
        texts += "--text" in options
        assert "--text" not in options or "olumn of the text" in options["--text"].help, name
    assert texts >= 5


@pytest.mark.parametrize("name", ["train", "fit", "explain"])
def test_the_help_of_a_command_ends_with_two_examples(name: str, glot: Callable[..., tuple]) -> None:
    from glot.commands.examples import EXAMPLES

    shown = glot(name, "-h")[1].rpartition("Examples:")[2]
    assert [line.strip() for line in shown.strip().splitlines()] == [f"glot {line}" for line in EXAMPLES[name]]


def test_the_table_of_fit_is_for_who_wants_to_know_how_good_it_is(glot: Callable[..., tuple], extracted: Path) -> None:
    """Set, rows, metric, score with its interval, epoch; the published rule's column is of the published preset."""
    heads = {}
    for preset, more in (("strong", ["--pooler", "mlp"]), ("published", [])):  # both begin at random weights
        words = ["fit", "--cache", extracted, "--preset", preset, "--epochs", 1, "--hidden", 8, "--out", preset]
        code, out, err = glot(*words, *more, "--no-yardsticks")
        assert code == 0, err
        lines = re.findall(r"^[┃│](.*)[┃│]\s*$", out, re.MULTILINE)
        heads[preset], first, *_ = ([cell.strip() for cell in re.split("[┃│]", line)] for line in lines)
        assert "set" in heads[preset], out
        cells = dict(zip(heads[preset], first, strict=True))
        metrics = json.loads(Path(preset, "metrics.json").read_text())
        best, epoch = metrics["best"]["validation"]["accuracy"], str(metrics["best_epoch"])
        assert (cells["set"], cells["rows"], cells["metric"], cells["epoch"]) == ("validation", "40", "accuracy", epoch)
        interval = binomtest(round(40 * best), 40).proportion_ci(method="wilson")
        shown = [100 * best, 100 * interval.low, 100 * interval.high]
        assert cells["score [95 % interval]"] == "{:.1f} [{:.1f}, {:.1f}]".format(*shown)
    assert heads["published"] == [*heads["strong"], "best (published rule)"]


def test_help_groups_the_options_and_begins_with_those_that_matter() -> None:
    shown = subprocess.run([sys.executable, "-m", "glot", "train", "-h"], capture_output=True, text=True).stdout
    parts = [shown.index(f"\n{title}:\n") for title in ("Options", "How the table is written", "Machine")]
    assert parts == sorted(parts)
    assert (
        parts[0] < shown.index("--minutes") < parts[1] < shown.index("--quoting") < parts[2] < shown.index("--device")
    )
