"""What a user may say of an extraction."""

from __future__ import annotations

from dataclasses import dataclass

TEXT = "{text}"  # the text's place in a template; alone it is the template of no template
COMPUTE_DTYPES = ("float16", "bfloat16", "float32")  # of a backbone's arithmetic, beside "auto"
ON_OVERFLOW = ("stop", "float32-shard")


@dataclass(frozen=True)
class ExtractOptions:
    """How states are made and kept.

    Attributes:
        max_tokens: longer texts are cut here; None cuts at `usual_tokens`.
        usual_tokens: where texts are cut that nobody gave a length for, or earlier where the backbone takes fewer.
        template: what stands around each text, "{text}" in its place; see `check_template`.
        layers: kept layers; negative numbers count from the last (-1: after the final norm).
        dtype: "auto" (bfloat16 where the backbone computes in it, else float16), or a name of `STORED_AS`.
        compute_dtype: the backbone's arithmetic; "auto" is the checkpoint's own.
        token_budget: padded tokens a forward; None chooses by device.
        shard_bytes: the size at which a shard is closed.
        order_seed: seed of the examples' permutation in a new cache.
        keep_texts: False leaves the texts themselves out of the cache.
        device: where the backbone runs; None lets accelerate choose.
        device_map: "auto" for a backbone larger than one device.
        trust_remote_code: run the code that the model's folder brings along; else it is never run.
        on_overflow: what to do with finite states that float16 cannot hold: "stop", or keep that shard in float32.
        part: (i, n) makes only every n-th shard from i on (counted from 0), and waits for no one.
        plan_only: make the plan and the example sets, and no states.
        group: a name before those of the example sets, "group.train", for other labels beside a cache's own.
        request: stands for the corpus asked for; a plan made for the same request is taken as it is.
    """

    max_tokens: int | None = None
    usual_tokens: int = 128
    template: str = TEXT
    layers: tuple[int, ...] = (-1,)
    dtype: str = "auto"
    compute_dtype: str = "auto"
    token_budget: int | None = None
    shard_bytes: int = 2**30
    order_seed: int = 0
    keep_texts: bool = True
    device: str | None = None
    device_map: str | None = None
    trust_remote_code: bool = False
    on_overflow: str = "stop"
    part: tuple[int, int] | None = None
    plan_only: bool = False
    group: str = ""
    request: str = ""
