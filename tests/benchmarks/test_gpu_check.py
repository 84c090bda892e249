"""The GPU check runs to its end at tiny sizes, and a section that fails, crashes or hangs takes no other with it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import Report, Section

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _when_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpu_check.BEGAN, "0")


def section_of(report: str, title: str) -> str:
    """What stands below a heading."""
    return report.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.slow
def test_it_runs_to_its_end_at_tiny_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    test = tmp_path / "test_made.py"  # for the tests of this checkout take half a minute to be found
    test.write_text(
        "import pytest\n\n@pytest.mark.cuda\ndef test_made():\n    pass\n\ndef test_other():\n    assert 0\n"
    )
    monkeypatch.setattr(gpu_check, "marked_files", lambda: [test])
    out = tmp_path / "gpu.md"
    code = gpu_check.main(["--tiny", "--out", str(out)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    report = out.read_text()
    assert report == printed.out
    assert "failed" not in report
    for section in gpu_check.SECTIONS:
        assert re.search(r"\d", section_of(report, section.title)), section.title
        assert f"{section.title}: at most {section.budget} s" in printed.err
    assert re.search(r"\| bfloat16, 64 wide \| [\d.e-]+ \|", section_of(report, "The machine"))
    assert "in 1 files: 1 passed." in section_of(report, "The CUDA tests")
    steps = section_of(report, "Stage two: a step on a GPU")
    for name in ("bfloat16", "TF32", "float32"):
        for place in ("on the device", "pinned in memory"):
            assert len(re.findall(rf"^\| {name} \| {place} \| [\d.]+ \| [\d.]+ \|", steps, re.MULTILINE)) == 1
    assert len(re.findall(r"^\| 32 \| 4 \| (?:float32|bfloat16) \| [\d.]+ \| [\d.]+ \|", steps, re.MULTILINE)) == 2
    extraction = section_of(report, "Stage one on a GPU: Mistral-7B's shape")
    assert len(re.findall(r"\| [\d,]+ \| [\d.e-]+ \| [\d.]+ % \|", extraction)) == 2
    assert re.search(r"Stage one over the bare loop: \d+\.\d+; target >= 0\.95", extraction)
    cost = section_of(report, "The cost of a label on a GPU")
    assert re.findall(r"^\| (full fine-tuning|frozen backbone|GLOT over the cache) \|", cost, re.MULTILINE)
    assert "LoRA, r = 64" in cost or "LoRA is left out" in cost


def test_the_cuda_tests_that_are_there() -> None:
    names = {path.name for path in gpu_check.marked_files()}
    assert {"test_poolers.py", "test_states.py", "test_doctor.py", "test_steps.py"} <= names


def test_without_pytest_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    assert list(gpu_check.cuda_tests(gpu_check.TINY, CPU)) == ["No test was run: pytest is not installed here."]


def test_a_section_that_fails_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def breaks(sizes: gpu_check.Sizes, device: torch.device) -> Iterator[str]:
        yield "half of it"
        raise ValueError("no\nluck")

    def works(sizes: gpu_check.Sizes, device: torch.device) -> Iterator[str]:
        yield "all of it"

    report = Report(tmp_path / "gpu.md")
    sections = [Section("breaks", "First", 10, breaks), Section("works", "Second", 10, works)]
    assert gpu_check.check(sections, True, report) == 1
    text = (tmp_path / "gpu.md").read_text()
    assert section_of(text, "First") == "\nhalf of it\n\nbreaks failed: ValueError: no luck\n"
    assert section_of(text, "Second") == "\nall of it\n\n"
    assert "failed: breaks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "seconds", "says"),
    [
        ("print('# one'); print('two')", 60.0, ""),
        ("print('# one', flush=True); import os; os.abort()", 60.0, "made failed: its process ended with -6"),
        ("print('# one', flush=True); import time; time.sleep(60)", 2.0, "made failed: stopped after 2 s"),
        ("print('# one'); print('made failed: known'); raise SystemExit(1)", 60.0, "made failed: known"),
    ],
)
def test_a_process_that_crashes_or_hangs_is_said_in_one_line(code: str, seconds: float, says: str) -> None:
    report = Report(None)
    python = [sys.executable, "-I", "-S"]  # starts at once, and so says its line before it is killed
    assert gpu_check.run_apart([*python, "-c", code], "made", seconds, report) is not bool(says)
    assert report.lines[0] == "# one"
    assert [line.strip() for line in report.lines if "failed" in line] == ([says] if says else [])


@pytest.mark.slow
def test_each_section_is_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(gpu_check.ROOT / "pipeline"), str(gpu_check.ROOT)]))
    commands: list[list[str]] = []
    whole = gpu_check.run_apart

    def tiny(command: list[str], name: str, seconds: float, report: Report) -> bool:
        commands.append(command)
        return whole([*command, "--tiny"], name, seconds, report)

    monkeypatch.setattr(gpu_check, "run_apart", tiny)
    report = Report(None)
    assert gpu_check.check(gpu_check.SECTIONS[:1], False, report) == 0
    assert [command[-2:] for command in commands] == [["--only", "machine"]]
    assert re.search(r"\| float32, 64 wide \| [\d.e-]+ \|", "\n".join(report.lines))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--only", "step"]) == 1
    assert "step failed: RuntimeError: torch sees no CUDA device; --tiny runs on a CPU" in capsys.readouterr().out


def test_flops_of_a_forward_pass() -> None:
    model = gpu_check.random_backbone(gpu_check.TINY, CPU)
    width, inner, keys, layers = 32, 4 * 8, 2 * 8, 2
    matrices = layers * (width * inner * 2 + width * keys * 2 + 3 * width * 48)
    norms = layers * 2 * width + width
    expected = 2 * (matrices + norms) * 7 + 4 * layers * inner * (4**2 + 3**2)
    assert gpu_check.forward_flops(model, [4, 3]) == expected


def test_the_data_sheet_is_that_of_an_sxm_card(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": None, "NVIDIA H100 NVL": None, "NVIDIA A100": None}
    for name, rate in names.items():
        monkeypatch.setattr(gpu_check, "device_name", lambda device, name=name: name)
        assert gpu_check.nominal_peak(CPU) == rate
