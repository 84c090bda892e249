"""A start from what is kept: the same backbone without torch's model, which is loaded when something needs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from glot.errors import FaultError
from glot.extract import ready
from glot.extract.backbone import Backbone, load_backbone_of
from glot.extract.engine import take_engine
from glot.extract.openvino import openvino_version
from glot.inference.forward import load_run_backbone
from glot.store.layout import Manifest, StatesIdentity

pytestmark = [
    pytest.mark.skipif(openvino_version() is None, reason="OpenVINO is not installed: nothing is converted"),
    pytest.mark.usefixtures("home"),
]
CLOSE = 1e-4  # relative, of float32 states that two libraries computed


@pytest.fixture
def states(
    extract: Callable, make_corpus: Callable, backbone_folders: dict[str, Path], tmp_path: Path
) -> StatesIdentity:
    """Those of a cache that OpenVINO made, of a backbone that a test may spoil."""
    folder = Path(shutil.copytree(backbone_folders["bert"], tmp_path / "own"))
    extract(make_corpus({"train": 8}), folder, tmp_path / "cache", engine="openvino", layers=(1, 2))
    return replace(Manifest.load(tmp_path / "cache").states, source=str(folder))


def start(states: StatesIdentity, layers: tuple[int, ...] = (1, 2), device: str | None = "cpu") -> Backbone | None:
    return ready.ready_backbone_of(states, "that made the cache", None, device, layers)


@pytest.mark.parametrize("layers", [(1, 2), (2,)])
def test_it_is_the_same_backbone_without_its_model(states: StatesIdentity, layers: tuple[int, ...]) -> None:
    backbone, whole = start(states, layers), load_backbone_of(states, "that made the cache", device="cpu")
    assert backbone is not None
    for name in ("name", "source", "weights_sha256", "tokenizer_sha256", "loader", "compute_dtype", *ready.FACTS):
        if name != "tried":
            assert getattr(backbone, name) == getattr(whole, name), name
    assert backbone.tried == states.max_tokens  # a run of these states need not try it again
    take_engine(backbone, layers, "auto", tokens=3)  # though it is little
    assert backbone.engine_name.startswith("openvino ")
    ids, mask = backbone.pad([[5, 6, 7], [8]])
    for ours, theirs in zip(
        backbone.hidden_states(ids, mask, layers), whole.hidden_states(ids, mask, layers), strict=True
    ):
        real = mask.bool()
        assert float(((ours[real] - theirs[real]).norm(dim=1) / theirs[real].norm(dim=1)).max()) < CLOSE
    assert "model" not in vars(backbone)
    backbone.hidden_states(ids, mask, (0,))  # which the engine does not give
    assert "model" in vars(backbone)
    take_engine(backbone, layers, "torch")
    torch.testing.assert_close(backbone.hidden_states(ids, mask, layers), whole.hidden_states(ids, mask, layers))


def test_it_is_taken_unless_torch_is_asked_for(states: StatesIdentity) -> None:
    for engine, is_ready in (("auto", True), ("openvino", True), ("torch", False)):
        backbone = load_run_backbone(states, "run", None, "cpu", layers=(1,), engine=engine)
        assert (backbone.engine is not None) == is_ready


def spoil_states(home: Path, folder: Path) -> None:
    (path,) = home.glob(f"*/*{ready.SUFFIX}")
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    save_file({name: 1.01 * states for name, states in load_file(path).items()}, path, about)


def cut_states(home: Path, folder: Path) -> None:
    (path,) = home.glob(f"*/*{ready.SUFFIX}")
    path.write_bytes(path.read_bytes()[:-100])


def spoil_conversion(home: Path, folder: Path) -> None:
    (path,) = home.glob("*/model.bin")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


def remove_conversion(home: Path, folder: Path) -> None:
    for path in home.glob("*/model.xml"):
        shutil.rmtree(path.parent)


def change_weights(home: Path, folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: 1.01 * weights for name, weights in load_file(path).items()}, path, {"format": "pt"})


@pytest.mark.parametrize("spoil", [spoil_states, cut_states, spoil_conversion, remove_conversion, change_weights])
def test_what_is_damaged_or_another_model_is_not_taken(
    states: StatesIdentity, home: Path, tmp_path: Path, spoil: Callable[[Path, Path], None]
) -> None:
    assert start(states) is not None
    spoil(home, tmp_path / "own")
    assert start(states) is None


def test_what_was_not_kept_is_not_taken(states: StatesIdentity) -> None:
    assert start(states, layers=(0,)) is None  # which was not compared with torch
    assert start(states, device="cuda") is None
    assert start(replace(states, compute_dtype="bfloat16")) is None
    assert start(replace(states, tokenizer_sha256="0" * 64)) is None


def test_each_choice_of_layers_is_kept(states: StatesIdentity, home: Path) -> None:
    """Unless others are kept with them."""
    backbone = load_backbone_of(states, "that made the cache", device="cpu")
    backbone.tried = states.max_tokens
    for layers, kept in (((2,), 1), ((0,), 2), ((0, 2), 3), ((1,), 3)):
        take_engine(backbone, layers, "openvino")
        assert len(list(home.glob(f"*/*{ready.SUFFIX}"))) == kept
        assert start(states, layers) is not None


def test_openvino_that_does_not_load(states: StatesIdentity, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("libopenvino.so: cannot open shared object file")

    monkeypatch.setattr("glot.extract.openvino.import_openvino", fail)
    assert start(states) is None


def test_a_model_that_became_another_meanwhile(states: StatesIdentity, home: Path) -> None:
    backbone = start(states)
    assert backbone is not None
    change_weights(home, Path(states.source))
    with pytest.raises(FaultError, match="is another model than it was when this began"):
        backbone.hidden_states(*backbone.pad([[5, 6]]), (0,))


@pytest.mark.slow
def test_transformers_models_are_not_imported(states: StatesIdentity, home: Path) -> None:
    """Their import takes longer than all else."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom glot.extract import converted\n"
        "from glot.inference.forward import load_run_backbone\nfrom glot.store.layout import Manifest\n"
        f"converted.models_folder = lambda: Path({str(home)!r})\n"
        f"states = Manifest.load(Path({str(home.parents[1] / 'cache')!r})).states\n"
        f"backbone = load_run_backbone(states, 'run', {states.source!r}, 'cpu', layers=(2,), engine='auto')\n"
        "list(backbone.hidden_states(*backbone.pad([[5, 6]]), (2,)))\n"
        "print(sorted({'transformers.modeling_utils', 'accelerate', 'torch._dynamo'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
