"""Loading a model without what libraries print meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_bars() -> Iterator[None]:
    """Without the bars that libraries draw by tqdm, whose own switches do not reach all of them."""
    from tqdm import std

    draw = std.tqdm.__init__

    def draw_nothing(self: std.tqdm, *args: object, **options: object) -> None:
        draw(self, *args, **{**options, "disable": True})

    std.tqdm.__init__ = draw_nothing
    try:
        yield
    finally:
        std.tqdm.__init__ = draw
