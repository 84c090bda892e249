"""What this machine has for glot and what it lacks, with what to do about each: the facts of `glot doctor`."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glot.errors import kind_and_reason
from glot.registry.backbones import packaged
from glot.version import __version__

DISTRIBUTION = "glot-pipeline"
CORE = ("torch", "transformers", "accelerate", "numpy", "h5py", "safetensors", "xxhash", "sklearn", "scipy")
HUB_SECONDS = 3
LITTLE_DISK = 5 * 2**30
LITTLE_MEMORY = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One fact.

    Attributes:
        area: "versions", "devices", "DGL", "models", "hub", "disk" or "extras".
        name: of what it is about. value: what was found.
        advice: what to do about it; "" where there is nothing to do.
        broken: whether glot cannot work like this.
    """

    area: str
    name: str
    value: str
    advice: str = ""
    broken: bool = False


def examine() -> Iterator[Finding]:
    """Look at everything, one finding after the other; asks the hub for at most `HUB_SECONDS`. Raises nothing."""
    yield from _versions()
    yield _trial()
    yield from _devices()
    yield _dgl()
    yield from _models()
    yield from _hub(HUB_SECONDS)
    yield from _disks()
    yield from _extras()


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield Finding("versions", "glot", __version__)
    needed = {requirement.name: requirement for requirement in _requirements("")}
    for name in CORE:
        try:
            module = importlib.import_module(name)
            version = getattr(module, "__version__", None) or importlib.metadata.version(name)
        except Exception as error:  # a library built for another one fails with whatever its loader raises
            broken = f"cannot be imported: {_line(error)}"
            yield Finding("versions", name, broken, f"pip install --force-reinstall {_package(name)}", broken=True)
            continue
        wanted = needed.get(_package(name))
        old = wanted is not None and not wanted.specifier.contains(version, prereleases=True)
        advice = f"pip install '{wanted.name}{wanted.specifier}'" if wanted is not None and old else ""
        yield Finding("versions", name, f"{version}, too old" if old else version, advice, broken=old)


def _package(module: str) -> str:
    return {"sklearn": "scikit-learn"}.get(module, module)


def _trial() -> Finding:
    """A head over two texts of random states, written to disk and read back."""
    try:
        import h5py
        import numpy as np
        import torch

        from glot.nn.config import PoolerConfig
        from glot.nn.poolers import make_pooler
        from glot.nn.tokens import TokenBatch

        with tempfile.TemporaryDirectory() as folder:
            states = np.random.default_rng(0).standard_normal((7, 8), dtype=np.float32)  # (N, d)
            with h5py.File(Path(folder) / "states.h5", "w") as file:
                file["hidden"] = states
            with h5py.File(Path(folder) / "states.h5", "r") as file:
                read = torch.from_numpy(file["hidden"][()])
        batch = TokenBatch(read, torch.tensor([3, 4]))
        vectors = make_pooler(PoolerConfig(hidden=4), 8, "dense")(batch)
        works = vectors.shape[0] == 2 and bool(torch.isfinite(vectors).all())
        reason = "" if works else "the vectors are not finite"
    except Exception as error:
        reason = _line(error)
    if not reason:
        return Finding("versions", "trial", "states written and read, a head run over them")
    advice = "mend what is marked above; where nothing is, report this page"
    return Finding("versions", "trial", f"a small head does not run: {reason}", advice, broken=True)


def _devices() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("devices", "CPU cores", str(cores))
    try:
        import torch

        from glot.process import available_memory
    except Exception:  # said among the versions
        return
    free = available_memory()
    little = "close other programs, or pass --max-memory to fit" if free < LITTLE_MEMORY else ""
    yield Finding("devices", "memory", f"{_gib(free)} free", little)
    yield _products()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _gpu(index)
    elif torch.backends.mps.is_available():
        yield Finding("devices", "GPU", "Apple's (mps)")
    else:
        yield _no_gpu(torch.version.cuda)


def _products() -> Finding:
    from glot.products import VARIABLE, choose_way, measure_ways

    try:
        rates = {way: f"{way} {found.rate / 1e9:,.0f} GFLOP/s" for way, found in measure_ways().items()}
        taken = choose_way()
    except Exception as error:  # a value of the variable that is none
        return Finding("devices", "products", _line(error), f"unset {VARIABLE}")
    others = "".join(f"; {rate}" for way, rate in rates.items() if way != taken)
    return Finding("devices", "products", f"float32 by {rates[taken]}{others}")


def _gpu(index: int) -> Finding:
    import torch

    name = f"cuda:{index}"
    try:
        free, total = torch.cuda.mem_get_info(index)
        major, minor = torch.cuda.get_device_capability(index)
        bfloat16 = "computes in bfloat16" if major >= 8 else "no bfloat16 (before compute capability 8.0)"
        value = f"{torch.cuda.get_device_name(index)}, {_gib(free)} of {_gib(total)} free, {major}.{minor}, {bfloat16}"
    except RuntimeError as error:  # another job holds it alone, or its driver failed
        return Finding("devices", name, _line(error), "see what holds it with nvidia-smi, or pass --device cpu")
    return Finding("devices", name, value, "" if major >= 8 else "leave --precision at float32")


def _no_gpu(built_for: str | None) -> Finding:
    if not shutil.which("nvidia-smi"):
        return Finding("devices", "GPU", "none: the CPU is used")
    advice = "this torch is the CPU build: install one for CUDA (docs/troubleshooting.md)"
    if built_for is not None:
        advice = f"torch is built for CUDA {built_for}: update the driver, or install a torch for an older CUDA"
    return Finding("devices", "GPU", "a driver is there, but torch cannot use it", advice)


def _dgl() -> Finding:
    try:
        from glot.nn.dgl_backend import dgl_import_error

        reason = dgl_import_error()
    except Exception as error:
        reason = _line(error)
    dense = "the dense backend (plain torch) is used, with the same results"
    if reason is not None:
        wheels = "its wheels are for Linux on x86-64 and Python up to 3.11"
        return Finding("DGL", "dgl", f"cannot be imported ({reason}): {dense}", f"only for --backend dgl: {wheels}")
    import dgl

    kind = "with CUDA" if "+cu" in dgl.__version__ else "for the CPU only: on a GPU --backend dgl is refused"
    return Finding("DGL", "dgl", f"{dgl.__version__}, {kind}; unless you pass --backend dgl, {dense}")


def _models() -> Iterator[Finding]:
    try:
        from glot.extract.source import resolve_model
    except Exception:  # said among the versions
        return
    for name in packaged():
        try:
            resolve_model(name)
        except Exception as error:
            yield Finding("models", name, "not installed", f"to use it: {str(error).rpartition('installed: ')[2]}")
        else:
            yield Finding("models", name, "installed, needs no hub")


def _hub(seconds: float) -> Iterator[Finding]:
    try:
        from huggingface_hub import constants, get_token
    except Exception as error:
        yield Finding("hub", "client", _line(error), "pip install --force-reinstall huggingface_hub", broken=True)
        return
    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", "reachable", "not asked: HF_HUB_OFFLINE is set", "unset it to download models")
    else:
        yield _reach(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT, seconds)
    if get_token():
        yield Finding("hub", "token", "there is one")
    else:
        yield Finding("hub", "token", "none", "for gated models (llama-3b): `hf auth login`, or set HF_TOKEN")


def _reach(endpoint: str, seconds: float) -> Finding:
    start = time.perf_counter()
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=seconds).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except (OSError, ValueError) as error:
        advice = f"use {' or '.join(packaged())}, or a folder with --model; behind a proxy set HTTPS_PROXY"
        return Finding("hub", "reachable", f"no: {endpoint}: {_line(error)}", advice)
    return Finding("hub", "reachable", f"yes: {endpoint} in {time.perf_counter() - start:.1f} s")


def _disks() -> Iterator[Finding]:
    from glot.store.files import nearest_there

    yield from _converted()
    places = {"caches and runs": Path.cwd()}
    try:
        from huggingface_hub.constants import HF_HUB_CACHE

        places["downloaded models"] = Path(HF_HUB_CACHE)
    except Exception:  # said of the hub
        pass
    for name, folder in places.items():
        try:
            free = shutil.disk_usage(nearest_there(folder)).free
            may_write = os.access(nearest_there(folder), os.W_OK)
        except OSError as error:
            yield Finding("disk", name, f"{folder}: {_line(error)}", "choose another folder with --out")
            continue
        elsewhere = "another folder with --out" if folder == Path.cwd() else "another place with HF_HOME"
        advice = "" if free >= LITTLE_DISK else f"`glot extract --estimate` says what a cache needs; choose {elsewhere}"
        value = f"{_gib(free)} free in {folder}"
        if not may_write:
            value, advice = f"{folder} cannot be written to", f"choose {elsewhere}"
        yield Finding("disk", name, value, advice)


def _converted() -> Iterator[Finding]:
    try:
        from glot.extract.converted import kept_bytes, models_folder

        folder, size = models_folder(), kept_bytes()
    except Exception:  # without OpenVINO there is no such folder
        return
    if size:
        what = f"{_gib(size)} in {folder}; remove it to make room: they are made again where they are needed"
        yield Finding("disk", "converted models", what)


def _extras() -> Iterator[Finding]:
    try:
        names = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("extras", "all", f"{DISTRIBUTION} is not installed as a package", "pip install -e .")
        return
    for extra in names:
        missing = [requirement.name for requirement in _requirements(extra) if not _fits(requirement)]
        advice = f"to use it: pip install '{DISTRIBUTION}[{extra}]'" if missing else ""
        yield Finding("extras", extra, f"missing: {', '.join(missing)}" if missing else "present", advice)


def _requirements(extra: str) -> list[Any]:
    """The `packaging` requirements of an extra ("": of the core) that hold on this platform."""
    try:
        from packaging.requirements import Requirement

        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except ImportError:  # PackageNotFoundError is one too
        return []
    found = [Requirement(line) for line in lines]

    def holds(item: Any, name: str) -> bool:
        return item.marker is None or item.marker.evaluate({"extra": name})

    return [item for item in found if holds(item, extra) and not (extra and holds(item, ""))]


def _fits(requirement: Any) -> bool:
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def _gib(number: int) -> str:
    return f"{number / 2**30:,.1f} GiB"


def _line(error: BaseException) -> str:
    return kind_and_reason(error)[:200]
