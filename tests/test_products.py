"""Which library multiplies: it is measured, it is float32, the process keeps its setting, and a run its way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glot import products
from glot.errors import Stopped, UsageError
from glot.extract.backbone import load_backbone
from glot.extract.source import ModelSource
from glot.fit.options import setting_difference
from glot.fit.result import FitResult
from glot.fit.run import FitOptions, finish_runs, make_configs, prepare_runs
from glot.fit.run_folder import CHECKPOINT_FILE, load_tensors
from glot.products import Measured, Way, choose_way, fast_products, measure_ways, torch_attention
from glot.store.reader import Cache

FLOAT32, BFLOAT16 = 3e-7, 2e-3  # relative errors of a product


def setting() -> str:
    """The process's own."""
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[Way, Measured]:
    """What the measurement finds, to be changed by a test; the variable is unset."""
    measured: dict[Way, Measured] = {"torch": Measured(5e10, FLOAT32), "onednn": Measured(9e10, FLOAT32)}
    monkeypatch.setattr(products, "measure_ways", lambda: measured)
    monkeypatch.delenv(products.VARIABLE, raising=False)
    return measured


def test_the_faster_way_with_the_error_of_float32_is_taken(found: dict[Way, Measured]) -> None:
    """Rates and errors are put in: what a processor gives is no matter here."""
    assert choose_way() == "onednn"
    found["onednn"] = Measured(5.2e10, FLOAT32)  # not worth other bits
    assert choose_way() == "torch"
    found["onednn"] = Measured(9e11, BFLOAT16)  # a processor with AMX
    assert choose_way() == "torch"
    del found["onednn"]
    assert choose_way() == "torch"


def test_a_run_keeps_its_way_where_that_is_float32(found: dict[Way, Measured]) -> None:
    """Also where the other way would be faster by now."""
    assert choose_way("torch") == "torch"
    found["onednn"] = Measured(1e10, FLOAT32)
    assert choose_way("onednn") == "onednn"
    found["onednn"] = Measured(9e11, BFLOAT16)
    assert choose_way("onednn") == "torch"


def test_the_variable_decides(found: dict[Way, Measured], monkeypatch: pytest.MonkeyPatch) -> None:
    """And a value that is none is told."""
    monkeypatch.setenv(products.VARIABLE, "torch")
    assert choose_way("onednn") == "torch"
    found["onednn"] = Measured(1e10, FLOAT32)
    monkeypatch.setenv(products.VARIABLE, "onednn")
    assert choose_way() == "onednn"
    monkeypatch.setenv(products.VARIABLE, "mkl")
    with pytest.raises(UsageError, match=r"GLOT_PRODUCTS is 'mkl': set it to auto, torch or onednn"):
        choose_way()


def test_a_wrong_variable_is_told_before_a_run_has_a_folder(
    glot: Callable[..., tuple], make_fit_cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(products.VARIABLE, "mkl")
    code, out, err = glot("fit", "--cache", make_fit_cache(), "--out", "run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert not Path("run").exists()


def test_both_ways_are_measured_on_this_machine() -> None:
    """torch's own is there on any; each error is that of float32 or, with AMX, of bfloat16."""
    ways = measure_ways()
    assert 0 < ways["torch"].error < 1e-5
    assert all(way.rate > 0 and way.error < 1e-2 for way in ways.values())


def test_the_setting_of_the_process_is_left_as_found(
    found: dict[Way, Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one another, after an error, and from two threads that overlap."""
    before = setting()

    @fast_products()
    def fail() -> None:
        assert setting() == "bf16"
        with fast_products("torch") as inner:
            assert (inner, setting()) == ("onednn", "bf16")  # the outer one decides
        assert setting() == "bf16"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert setting() == before

    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with fast_products():
            inside.set()
            leave.wait()

    other = threading.Thread(target=hold)
    with fast_products():
        other.start()
        inside.wait()
    assert setting() == "bf16"  # the other thread is still within
    leave.set()
    other.join()
    assert setting() == before


def test_attention_of_a_backbone_is_torch_s_own(found: dict[Way, Measured]) -> None:
    """oneDNN's start costs more than the small products in torch's kernel; all other products keep the faster way."""
    before, seen = setting(), []
    attend = torch.nn.functional.scaled_dot_product_attention
    states = torch.ones(1, 1, 2, 4)

    class Recorder(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, function: object, types: object, given: tuple = (), named: object = None
        ) -> object:
            if function is attend:
                seen.append(setting())
            return function(*given, **(named or {}))

    with Recorder(), fast_products(), torch_attention():
        attend(states, states, states)
        assert setting() == "bf16"
    assert (seen, setting()) == ([before], before)
    found["onednn"] = Measured(1e10, FLOAT32)
    with Recorder(), fast_products(), torch_attention():
        attend(states, states, states)
    assert seen == [before, before]


def test_a_backbone_multiplies_by_the_faster_way(found: dict[Way, Measured], backbone_folders: dict[str, Path]) -> None:
    """Stage one by torch, too; the setting of the process is left as found."""
    backbone = load_backbone(ModelSource("bert", str(backbone_folders["bert"])), device="cpu")
    before, seen = setting(), set()
    for module in backbone.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda *_: seen.add(setting()))
    ids, mask = backbone.pad([[5, 6, 7]])
    backbone.hidden_states(ids, mask, (2,))
    assert (seen, setting()) == ({"bf16"}, before)


def test_a_run_records_its_way_and_goes_on_with_it(
    make_fit_cache: Callable[..., Path], tmp_path: Path, found: dict[Way, Measured]
) -> None:
    """Stopped, and gone on with where the other way is found faster: it keeps the way it began with."""
    folder, runs = make_fit_cache(), tmp_path / "run"
    prepare_runs(make_configs(Cache(folder), FitOptions(device="cpu")), runs)
    steps = iter(range(1000))
    with pytest.raises(Stopped):
        finish_runs(runs, should_stop=lambda: next(steps) == 4)
    assert load_tensors(runs / CHECKPOINT_FILE)[1]["products"] == "onednn"
    found["onednn"] = Measured(1e10, FLOAT32)
    assert choose_way() == "torch"
    assert finish_runs(runs)[runs].products == "onednn"
    assert FitResult.load(runs).products == "onednn"


@pytest.mark.parametrize(("has_units", "taken"), [(True, "bfloat16"), (False, "float32")])
def test_precision_auto_is_recorded_as_what_it_came_to(
    make_fit_cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, has_units: bool, taken: str
) -> None:
    monkeypatch.setattr("glot.fit.run.has_bfloat16", lambda device: has_units)
    cache = Cache(make_fit_cache())
    assert make_configs(cache, FitOptions(device="cpu", precision="auto"))[0].train.precision == taken
    assert make_configs(cache, FitOptions(device="cpu"))[0].train.precision == "float32"


def test_a_gpu_has_units_from_capability_8_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, capability in enumerate([(7, 5), (8, 0), (9, 0)]):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device, found=capability: found)
        assert products.has_bfloat16(torch.device("cuda", number)) == (capability >= (8, 0))
    assert not products.has_bfloat16(torch.device("meta"))
    assert products.has_bfloat16(torch.device("cpu")) in (True, False)  # as it is measured


def test_a_run_of_precision_auto_differs_in_nothing_from_what_is_asked_again(
    make_fit_cache: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glot.fit.run.has_bfloat16", lambda device: True)
    options = FitOptions(device="cpu", precision="auto")
    config = make_configs(Cache(make_fit_cache()), options)[0]
    assert setting_difference(config, options) is None
    assert setting_difference(config, FitOptions(device="cpu")) == "precision bfloat16, now float32"
