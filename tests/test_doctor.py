"""`glot doctor`: what it finds, and what it says of machines that lack something."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glot import doctor


def _named(findings: object) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in findings}


def test_doctor_on_this_machine(glot: Callable[..., tuple]) -> None:
    import torch

    code, out, err = glot("doctor")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "glot works here"
    assert torch.__version__ in out

    code, out, _ = glot("doctor", "--json")
    found = json.loads(out)
    assert (code, found["works"]) == (0, True)
    names = {finding["name"] for finding in found["findings"]}
    assert {"python", "glot", "torch", "transformers", "accelerate", "numpy", "h5py", "dgl"} <= names
    assert {"CPU cores", "memory", "minilm", "smollm2-135m", "token", "caches and runs", "parquet"} <= names


def test_a_missing_library_is_exit_code_1_and_says_what_to_do(
    glot: Callable[..., tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    code, out, err = glot("doctor")
    assert (code, err) == (1, "")
    assert "pip install --force-reinstall h5py" in out
    assert "glot cannot work here: see h5py, trial" in out


def test_a_library_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "4.1.0")
    found = _named(doctor._versions())["transformers"]
    assert found.broken
    assert "too old" in found.value
    assert "pip install 'transformers>=" in found.advice


def test_a_broken_dgl_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glot.nn.dgl_backend.dgl_import_error", lambda: "ImportError: no graphbolt")
    found = doctor._dgl()
    assert not found.broken
    assert "no graphbolt" in found.value
    assert "dense" in found.value


def test_a_hub_that_does_not_answer_costs_the_time_limit_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and says nothing
        found = doctor._reach(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.2)
    assert found.value.startswith("no: ")
    assert "minilm" in found.advice
    assert not found.broken


def test_a_hub_that_answers_and_a_token_whose_value_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, *what: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    try:
        found = _named(doctor._hub(60))
    finally:
        server.shutdown()
        server.server_close()
    assert found["reachable"].value.startswith("yes: ")
    assert found["token"].value == "there is one"


def test_little_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from collections import namedtuple

    monkeypatch.chdir(tmp_path)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(2**40, 2**40, 2**20))
    found = _named(doctor._disks())
    assert "--estimate" in found["caches and runs"].advice
    assert "HF_HOME" in found["downloaded models"].advice


def test_how_products_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from glot import products

    rates = {"torch": products.Measured(5e10, 3e-7), "onednn": products.Measured(9e10, 3e-7)}
    monkeypatch.setattr(products, "measure_ways", lambda: rates)
    monkeypatch.setenv(products.VARIABLE, "auto")
    assert doctor._products().value == "float32 by onednn 90 GFLOP/s; torch 50 GFLOP/s"
    monkeypatch.setenv(products.VARIABLE, "fastest")
    found = doctor._products()
    assert (found.broken, found.advice) == (False, "unset GLOT_PRODUCTS")
    assert "GLOT_PRODUCTS is 'fastest'" in found.value


def test_converted_models_and_how_to_clear_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from glot.extract import converted

    monkeypatch.setattr(converted, "models_folder", lambda: tmp_path / "openvino")
    assert list(doctor._converted()) == []
    (tmp_path / "openvino/key").mkdir(parents=True)
    (tmp_path / "openvino/key/model.bin").write_bytes(bytes(2**20))
    (found,) = doctor._converted()
    assert f"in {tmp_path / 'openvino'}; remove it to make room" in found.value


def test_missing_extras_say_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    version = importlib.metadata.version

    def without_pyarrow(name: str) -> str:
        if name == "pyarrow":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("importlib.metadata.version", without_pyarrow)
    found = _named(doctor._extras())
    assert found["parquet"].value == "missing: pyarrow"
    assert "pip install 'glot-pipeline[parquet]'" in found["parquet"].advice
    assert not found["parquet"].broken


@pytest.mark.parametrize(
    ("capability", "said", "advised"), [((9, 0), "computes in bfloat16", False), ((7, 5), "no bfloat16", True)]
)
def test_a_gpu(capability: tuple[int, int], said: str, advised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda index: (30 * 2**30, 80 * 2**30))
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda index: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "Made Up 80")
    found = _named(doctor._devices())["cuda:0"]
    assert found.value.startswith("Made Up 80, 30.0 GiB of 80.0 GiB free")
    assert said in found.value
    assert bool(found.advice) == advised


@pytest.mark.cuda  # test_a_gpu stands in for it elsewhere
def test_a_real_gpu() -> None:
    import torch

    found = _named(doctor._devices())["cuda:0"]
    assert torch.cuda.get_device_name(0) in found.value


def test_without_torch_it_says_so_and_looks_at_the_rest(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['glot', 'doctor']; import glot.__main__ as m; m.main()"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "pipeline")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)  # transformers remarks on it in its own words
    assert "pip install --force-reinstall torch" in done.stdout
    assert "extras" in done.stdout


@pytest.mark.parametrize(
    ("built_for", "driver", "said"),
    [("12.8", True, "update the driver"), (None, True, "CPU build"), (None, False, "none: the CPU is used")],
)
def test_no_gpu(built_for: str | None, driver: bool, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi" if driver else None)
    found = doctor._no_gpu(built_for)
    assert said in found.value + found.advice
