"""`map` over the processors of a Ray cluster: the same results in the same order, whoever dies."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import Any, TypeVar

from glot.cluster.pool import living_nodes

FEW = 100  # items that are not worth the seconds in which Ray starts processes
WAITING = 4  # items under way for each processor, so that none of them waits for the slowest

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_over_ray(function: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
    """The results of a function of one item, in the items' order; computed here where there are few of them.

    What Ray loses is computed again; raises what the function raises.
    """
    import ray
    from ray.exceptions import RayTaskError

    first = list(islice(items, FEW))
    processors = _processors()
    if len(first) < FEW or not processors:
        yield from map(function, chain(first, items))
        return
    held, call = ray.put(function), ray.remote(num_cpus=1, max_retries=-1)(_call)
    pending: deque[Any] = deque()
    try:
        for item in chain(first, items):
            pending.append(call.remote([held], item))
            if len(pending) >= WAITING * processors:
                yield ray.get(pending.popleft())
        while pending:
            yield ray.get(pending.popleft())
    except RayTaskError as error:
        raise error.cause from None


def start_processes(items: int, modules: Sequence[str]) -> None:
    """Have Ray start processes for a map of so many items to come, and import modules there, while all goes on here."""
    import ray

    if items < FEW:
        return
    prepare = ray.remote(num_cpus=1)(_prepare)
    for _ in range(_processors()):
        prepare.remote(list(modules))


def _processors() -> int:
    return int(sum(node.get("CPU", 0) for node in living_nodes().values()))


def _prepare(modules: list[str]) -> None:
    for module in modules:
        importlib.import_module(module)


def _call(held: list[Any], item: Any) -> Any:
    """Runs in a process of Ray, which keeps the function for the next item. In a list Ray hands the reference over."""
    return _function(held[0])(item)


@lru_cache(maxsize=1)
def _function(reference: Any) -> Callable[[Any], Any]:
    import ray

    return ray.get(reference)
