"""GLOT ("Graph Learning Over Tokens") for sentence-transformers: the backbone's text input, and the trained pooling.

This file goes along with every exported model as `glot_pooling.py` and needs torch and sentence-transformers alone.
Tensors are padded: B texts, L tokens at most, d numbers a token.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers.base.modules import Module, Transformer
from torch import Tensor, nn


class GlotBackbone(Transformer):
    """A Hugging Face model that reads each text inside a template, and one token at least of every text."""

    config_keys = [*Transformer.config_keys, "template"]  # noqa: RUF012 -- as the base class has it

    def __init__(self, *args: Any, template: str = "{text}", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.template = template
        assert self.tokenizer is not None
        self.tokenizer.padding_side = self.tokenizer.truncation_side = "right"

    def preprocess(  # type: ignore[override]  # of texts alone, where the base takes pictures and sounds too
        self, inputs: Any, prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Token ids and mask (B, L) of B texts; a prompt stands right before the text, inside the template."""
        features = super().preprocess([self._fill(text, prompt or "") for text in inputs], **kwargs)
        empty = features["attention_mask"].sum(dim=1) == 0
        if not empty.any():
            return features
        if features["input_ids"].shape[1] == 0:  # no text of the batch has a token
            features["input_ids"] = torch.zeros(len(inputs), 1, dtype=torch.long)
            features["attention_mask"] = torch.zeros(len(inputs), 1, dtype=torch.long)
        features["input_ids"][empty, 0] = self._ending
        features["attention_mask"][empty, 0] = 1
        return features

    def _fill(self, text: str, prompt: str) -> str:
        text = (prompt + text).encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair has no token
        return self.template.replace("{text}", text)

    @property
    def _ending(self) -> int:
        """The token that stands for a text without any."""
        assert self.tokenizer is not None
        candidates = (self.tokenizer.eos_token_id, self.tokenizer.sep_token_id, self.tokenizer.pad_token_id, 0)
        return next(number for number in candidates if number is not None)


def token_graph(states: Tensor, mask: Tensor, tau: float) -> Tensor:
    """(B, L, L) bool: i and j are joined where the cosine of their states is above tau (strict), i with itself always.

    Cosines are float32, and no gradient flows through them. A place of padding is joined with itself alone.
    """
    with torch.no_grad(), torch.autocast(states.device.type, enabled=False):
        unit = F.normalize(states.detach().float(), dim=2)
        joined = unit @ unit.mT > tau if tau < 1 else torch.zeros_like(unit @ unit.mT).bool()
        place = torch.arange(states.shape[1], device=states.device)
        # One triangle decides for both directions: a product need not round (i, j) and (j, i) alike.
        joined = joined & mask[:, :, None] & mask[:, None, :] & (place[:, None] < place)
        return joined | joined.mT | (place[:, None] == place)


class LayerMix(nn.Module):
    """γ Σ_k s_k LN(x^(k)) with s = softmax(w): the states of n layers as one; LN has no weights."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.empty(layers)), nn.Parameter(torch.empty(1))

    def forward(self, states: Tensor) -> Tensor:
        """(B, L, d) from the states of n layers side by side (B, L, n d)."""
        layers = states.unflatten(2, (len(self.weight), -1))
        normal = F.layer_norm(layers, layers.shape[3:])
        return self.scale * (self.weight.softmax(dim=0)[:, None] * normal).sum(dim=2)


class GatLayer(nn.Module):
    """Graph attention: b + Σ_j α_ij W h_j, with α_i· = softmax_j(LeakyReLU_0.2(a_sᵀ W h_j + a_dᵀ W h_i + c))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden, width))
        self.source, self.target, self.bias = (nn.Parameter(torch.empty(hidden)) for _ in range(3))
        self.edge = nn.Parameter(torch.empty(()))

    def forward(self, h: Tensor, edges: Tensor) -> Tensor:
        """(B, L, width) to (B, L, hidden)."""
        values = F.linear(h, self.weight)
        heard, hearing = values @ self.source, values @ self.target  # (B, L)
        scores = F.leaky_relu(heard[:, None, :] + hearing[:, :, None] + self.edge, 0.2)  # (B, L, L)
        alpha = scores.masked_fill(~edges, float("-inf")).softmax(dim=2)
        return alpha.to(values.dtype) @ values + self.bias


class GcnLayer(nn.Module):
    """Graph convolution: D^{-1/2} A D^{-1/2} H W + b."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(hidden, width)), nn.Parameter(torch.empty(hidden))

    def forward(self, h: Tensor, edges: Tensor) -> Tensor:
        """(B, L, width) to (B, L, hidden)."""
        values = F.linear(h, self.weight)
        scale = edges.sum(dim=2, keepdim=True).to(values.dtype).rsqrt()  # (B, L, 1)
        return edges.to(values.dtype) @ (values * scale) * scale + self.bias


class GinLayer(nn.Module):
    """Graph isomorphism: MLP(h_i + Σ_j h_j), j = i among them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden))

    def forward(self, h: Tensor, edges: Tensor) -> Tensor:
        """(B, L, width) to (B, L, hidden)."""
        return self.mlp(h + edges.to(h.dtype) @ h)


class GineLayer(GinLayer):
    """GIN with one learned edge vector e: MLP(h_i + Σ_j ReLU(h_j + e))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden)
        self.edge = nn.Parameter(torch.empty(width))

    def forward(self, h: Tensor, edges: Tensor) -> Tensor:
        """(B, L, width) to (B, L, hidden)."""
        return self.mlp(h + edges.to(h.dtype) @ F.relu(h + self.edge))


LAYERS = {"gat": GatLayer, "gcn": GcnLayer, "gin": GinLayer, "gine": GineLayer}


class TokenGNN(nn.Module):
    """K layers with a ReLU after each, and what the readout sees of them: `cat` all and the states, `max` or `mean`."""

    def __init__(self, width: int, hidden: int, layers: int, gnn: str, jk: str) -> None:
        super().__init__()
        widths = [width] + [hidden] * layers
        self.jk = jk if layers else "cat"
        self.layers = nn.ModuleList(LAYERS[gnn](w, hidden) for w in widths[:-1])
        self.out_width = sum(widths) if self.jk == "cat" else hidden

    def forward(self, states: Tensor, edges: Tensor) -> Tensor:
        """(B, L, out_width)."""
        outputs = [states]
        for layer in self.layers:
            outputs.append(F.relu(layer(outputs[-1], edges)))
        if self.jk == "cat":
            return torch.cat(outputs, dim=2)
        stacked = torch.stack(outputs[1:])  # (K, B, L, hidden)
        return stacked.amax(dim=0) if self.jk == "max" else stacked.mean(dim=0)


class AttentionReadout(nn.Module):
    """Σ_i π_i u_i, with π = softmax over a text's tokens of wᵀ tanh(W u_i + b) + c."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.project, self.score = nn.Linear(width, hidden), nn.Linear(hidden, 1)

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        """(B, L, width) to (B, width)."""
        scores = self.score(torch.tanh(self.project(u))).squeeze(2)  # (B, L)
        weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=1)
        return (weights.to(u.dtype)[:, None, :] @ u).squeeze(1)


class MeanReadout(nn.Module):
    """The mean over a text's tokens."""

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        """(B, L, width) to (B, width)."""
        weights = mask.to(u.dtype)
        return (weights[:, None, :] @ u).squeeze(1) / weights.sum(dim=1, keepdim=True)


@dataclass
class PoolingConfig:
    """`config.json` of the pooling.

    Attributes:
        width: d of the token states.
        pooler: glot, or a baseline: adapool, mlp, mean, max or cls.
        gnn, layers, hidden, jk, tau, readout: of glot; mlp has layers of width hidden as well.
        scorer: rows of the attention readout's first weight.
        token_position: the token that cls takes, first or last.
        hidden_before, hidden_behind: tokens at a text's ends, put there by the tokenizer, that the pooling is not
            shown, unless a text has no others.
        num_texts: texts of an example of the head's task.
        classes: that the head tells apart. score_range: or the lowest and the highest score it was trained on.
        thresholds: of several labels a text the probability above which each of `classes` is given; None: a text has
            one of them.
        projection: the width of a linear map over the pooled vector; None: there is none.
        pair_features: what the head reads of a pair's vectors a and b: concat [a, b] (of scores: the cosine of both),
            full [a, b, |a - b|, ab], symmetric [a + b, |a - b|, ab].
        mixed_layers: the backbone's layers that are mixed, 0 for its embeddings; empty: it reads one layer, and no
            weight mixes.
    """

    width: int
    pooler: str = "glot"
    gnn: str = "gat"
    layers: int = 2
    hidden: int = 256
    jk: str = "cat"
    tau: float = 0.6
    readout: str = "attention"
    scorer: int = 128
    token_position: str = "first"
    hidden_before: int = 0
    hidden_behind: int = 0
    num_texts: int = 1
    classes: list[str] = field(default_factory=list)
    score_range: list[float] | None = None
    thresholds: list[float] | None = None
    projection: int | None = None
    pair_features: str = "concat"
    mixed_layers: list[int] = field(default_factory=list)


class GlotPooling(Module):
    """Token states to one vector a text, as it was trained; and the head of its task, which no other loss trains.

    Args:
        config: the fields of `PoolingConfig`. Weights are those that `load` reads.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = c = PoolingConfig(**config)
        self.mix = LayerMix(len(c.mixed_layers)) if c.mixed_layers else None
        self.out_width = c.width
        if c.pooler == "glot":
            self.gnn = TokenGNN(c.width, c.hidden, c.layers, c.gnn, c.jk)
            self.out_width = self.gnn.out_width
        elif c.pooler == "mlp" and c.layers:
            self.layers = nn.ModuleList(nn.Linear(w, c.hidden) for w in [c.width] + [c.hidden] * (c.layers - 1))
            self.out_width = c.hidden
        is_attentive = c.pooler == "adapool" or (c.pooler == "glot" and c.readout == "attention")
        self.readout = AttentionReadout(self.out_width, c.scorer) if is_attentive else MeanReadout()
        self.projection = None
        if c.projection is not None:
            self.projection = nn.Linear(self.out_width, c.projection, bias=False)
            self.out_width = c.projection
        self.head = self._make_head()

    def _make_head(self) -> nn.Linear | None:
        parts = {"concat": 2, "full": 4, "symmetric": 3}[self.config.pair_features] if self.config.num_texts == 2 else 1
        if self.config.classes:
            head = nn.Linear(parts * self.out_width, len(self.config.classes))
        elif self._scores_by_cosine:
            head = nn.Linear(self.out_width, self.out_width)
        elif self.config.score_range:
            head = nn.Linear(parts * self.out_width, 1)
        else:
            return None
        return head.requires_grad_(False)

    @property
    def _scores_by_cosine(self) -> bool:
        config = self.config
        return bool(config.score_range) and config.num_texts == 2 and config.pair_features == "concat"

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add `sentence_embedding` (B, D) to features with `token_embeddings` and `attention_mask`, padded behind."""
        mask = features["attention_mask"].bool()
        if self.config.hidden_before or self.config.hidden_behind:
            place = torch.arange(mask.shape[1], device=mask.device)
            ends = mask.sum(dim=1, keepdim=True) - self.config.hidden_behind
            content = (place >= self.config.hidden_before) & (place < ends)
            mask = mask & (content | ~content.any(dim=1, keepdim=True))  # onnxruntime has no `where` of bools
        states = features["token_embeddings"]
        if self.mix is not None:  # the backbone's own configuration asks for the states of every layer
            layers = features["all_layer_embeddings"]
            states = torch.cat([layers[number] for number in self.config.mixed_layers], dim=2)
        features["sentence_embedding"] = self.pool(states, mask)
        return features

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, D) from states (B, L, d) and mask (B, L) bool, True at the tokens to be seen.

        Where layers are mixed, states (B, L, n d) are theirs side by side.
        """
        pooled = self._pool(states, mask)
        return pooled if self.projection is None else self.projection(pooled)

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        states = states.masked_fill(~mask[:, :, None], 0)  # whatever stands in the padding, NaN too
        own = next(iter(self.parameters()), None)
        states = states.float() if own is None else states.to(own.dtype)
        if self.mix is not None:
            states = self.mix(states)
        if self.config.pooler == "glot":
            edges = token_graph(states, mask, self.config.tau)
            return self.readout(self.gnn(states, edges), mask)
        if self.config.pooler == "mlp" and self.config.layers:
            for layer in self.layers:
                states = F.relu(layer(states))
        if self.config.pooler == "max":
            return states.masked_fill(~mask[:, :, None], float("-inf")).amax(dim=1)
        if self.config.pooler == "cls":
            place = torch.arange(1, mask.shape[1] + 1, device=mask.device)
            order = place if self.config.token_position == "last" else mask.shape[1] + 1 - place
            chosen = (mask * order).argmax(dim=1)  # (B,)
            return states.gather(1, chosen[:, None, None].expand(-1, 1, self.config.width)).squeeze(1)
        return self.readout(states, mask)

    def raw(self, vectors: Tensor, vectors_b: Tensor | None = None) -> Tensor:
        """What the head makes of vectors (B, D), of a pair's second texts too: logits (B, C), or scaled scores (B,)."""
        assert self.head is not None
        if vectors_b is not None and self._scores_by_cosine:
            return F.cosine_similarity(self.head(vectors), self.head(vectors_b), dim=1)
        raw = self.head(vectors if vectors_b is None else self._features(vectors, vectors_b))
        return raw if self.config.classes else raw.squeeze(1)

    def _features(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, k D) of the vectors of pairs."""
        kind = self.config.pair_features
        sides = [a + b] if kind == "symmetric" else [a, b]
        return torch.cat(sides if kind == "concat" else [*sides, (a - b).abs(), a * b], dim=1)

    @torch.inference_mode()
    def predict(self, vectors: Any, vectors_b: Any = None) -> list[str] | list[list[str]] | list[float]:
        """The class names, or the scores, of vectors (B, D) from `encode`, with those of a pair's second texts.

        Where a text may have several labels, a list of their names for each.
        """
        raw = self._raw_of(vectors, vectors_b)
        if self.config.thresholds:
            names = self.config.classes
            above = self.probabilities(raw) > torch.tensor(self.config.thresholds, device=raw.device)
            return [[name for name, has in zip(names, row, strict=True) if has] for row in above.tolist()]
        if self.config.classes:
            return [self.config.classes[number] for number in raw.argmax(dim=1).tolist()]
        return self.scores(raw).tolist()

    @torch.inference_mode()
    def predict_proba(self, vectors: Any, vectors_b: Any = None) -> Any:
        """(B, C) float32, NumPy: each class' probability, in the order of `config.classes`, of what `predict` takes."""
        if not self.config.classes:
            raise ValueError("this head has no classes to give probabilities of: predict gives scores")
        return self.probabilities(self._raw_of(vectors, vectors_b)).cpu().numpy()

    def probabilities(self, raw: Tensor) -> Tensor:
        """(B, C) float32 of logits (B, C): of classes 1 in all, of several labels each its own."""
        return raw.float().sigmoid() if self.config.thresholds else raw.float().softmax(dim=1)

    def scores(self, raw: Tensor) -> Tensor:
        """(B,) in the task's units, of scaled scores (B,)."""
        assert self.config.score_range is not None  # as of every head without classes
        low, high = self.config.score_range
        return low + raw * (high - low)

    def _raw_of(self, *vectors: Any) -> Tensor:
        if self.head is None:
            raise ValueError("there is no head: this pooling was trained without labels")
        return self.raw(*(torch.as_tensor(some).to(self.head.weight) for some in vectors if some is not None))

    def get_embedding_dimension(self) -> int:
        """D."""
        return self.out_width

    def get_config_dict(self) -> dict[str, Any]:
        """What `__init__` takes."""
        return asdict(self.config)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write `config.json` and the weights."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(  # type: ignore[override]  # `init_defaults` is of newer versions alone, and reaches **kwargs
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> GlotPooling:
        """Read what `save` wrote, from a folder or the Hub."""
        where: dict[str, Any] = {"subfolder": subfolder, "token": token, "cache_folder": cache_folder}
        where |= {"revision": revision, "local_files_only": local_files_only}
        pooling = cls(**cls.load_config(model_name_or_path, **where))
        return cls.load_torch_weights(model_name_or_path, model=pooling, **where)
