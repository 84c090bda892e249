"""The page beside exported graphs: what the files are, and the lines of Python that use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glot.export.runtimes import Runtime
from glot.store.files import write_text

USE_FILE = "README.md"

_SETUP = '''\
import json
from pathlib import Path

import numpy as np
import {package}
from tokenizers import Tokenizer

folder = Path(".")  # where this page lies
facts = json.loads((folder / "glot.json").read_text(encoding="utf-8"))
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))  # cuts and pads as the run did
graph = {opening}


def run({parameters}):
    """Each output by its name, of {what}."""
    filled = {filled}
    tokens = tokenizer.encode_batch(filled)
    ids = np.array([text.ids for text in tokens], dtype=np.int64)
    mask = np.array([text.attention_mask for text in tokens], dtype=np.int64)
{empty}    found = {calling}
    return dict(zip(facts["outputs"], found))


found = run({example})
print(found["vectors"].shape)  # (2, {width})
'''
_LABELS = 'print([[name for name, has in zip(facts["classes"], row) if has] for row in above])\n'
_EMPTY = """\
    if not ids.shape[1]:  # texts without a token: the model puts in an end of text
        ids = mask = np.zeros((len(filled), 1), dtype=np.int64)
"""
_TEXTS = '["a late goal", "the price of bread"]'
_PAIRS = f'{_TEXTS}, ["they won at last", "rain falls"]'


def write_use(folder: Path, facts: dict[str, Any], runtime: Runtime) -> None:
    """Write `README.md` from what `glot.json` holds."""
    is_prompt = facts["texts"] == 2 and not facts["pair_outputs"]  # both texts of a pair in one prompt
    lines = [
        f"# {facts['pooler']} over {facts['backbone']}, trained on {facts['task']}: for {runtime.package}",
        "",
        f"Made by {facts['made_by']} from a run and its frozen language model. It needs "
        f"`pip install {runtime.package} tokenizers numpy`, and neither torch nor transformers:",
        "",
        "```python",
        _code(facts, runtime, is_prompt).rstrip(),
        "```",
        "",
        *_files(facts, runtime),
        "",
        f"Texts are cut at {facts['max_tokens']} tokens. The numbers are those of `glot encode` and `glot predict`, "
        "which the export has checked on some texts, alone and padded.",
    ]
    if is_prompt:
        lines += ["", "Where a pair is too long its end is cut, and glot itself cuts the longer text."]
    if facts["computed_in"] != "float32":
        lines += ["", f"The run computed in {facts['computed_in']} and the files in float32: they differ by rounding."]
    write_text(folder / USE_FILE, "\n".join(lines) + "\n")


def _code(facts: dict[str, Any], runtime: Runtime, is_prompt: bool) -> str:
    by_text, by_pair = (
        'facts["template"].replace("{text}", text)',
        're.sub(r"{text(_b)?}", lambda place: b if place[1] else a, facts["template"])',
    )
    inputs = '{"input_ids": ids, "attention_mask": mask}'
    code = _SETUP.format(
        package=runtime.package,
        opening=runtime.opening.format(path=f'folder / "model{runtime.suffix}"'),
        calling=runtime.calling.format(graph="graph", given=inputs),
        parameters="texts, texts_b" if is_prompt else "texts",
        what="pairs of texts" if is_prompt else "a list of texts",
        filled=f"[{by_pair} for a, b in zip(texts, texts_b)]" if is_prompt else f"[{by_text} for text in texts]",
        empty="" if facts["adds_tokens"] else _EMPTY,
        example=_PAIRS if is_prompt else _TEXTS,
        width=facts["width"],
    )
    if is_prompt:
        code = code.replace("import json\n", "import json\nimport re\n")
    if facts["pair_outputs"]:
        opening = runtime.opening.format(path=f'folder / "head{runtime.suffix}"')
        calling = runtime.calling.format(graph="head", given='{"vectors_a": a, "vectors_b": b}')
        code += (
            f"head = {opening}\n"
            'a, b = found["vectors"], run(["they won at last", "rain falls"])["vectors"]\n'
            f"(answers,) = {calling}\n"
        )
        name, answers = facts["pair_outputs"][0], "answers"
    elif len(facts["outputs"]) == 1:
        return code
    else:
        name = facts["outputs"][1]
        answers = f'found["{name}"]'
    if name == "scores":
        return code + f"print({answers})  # (2,)\n"
    if facts["thresholds"]:
        return code + f'above = {answers} > facts["thresholds"]\n' + _LABELS
    return code + f'print([facts["classes"][best] for best in {answers}.argmax(axis=1)])\n'


def _files(facts: dict[str, Any], runtime: Runtime) -> list[str]:
    shapes = {
        "vectors": f"`vectors` (B, {facts['width']})",
        "probabilities": f"`probabilities` (B, {len(facts['classes'])}), in the order of `classes`"
        + (", each by itself: a text has those above their `thresholds`" if facts["thresholds"] else ""),
        "scores": "`scores` (B,)",
    }
    outputs = " and ".join(shapes[name] for name in facts["outputs"])
    inputs = "`input_ids` and `attention_mask` (B, L) int64, padded on the right"
    lines = [
        f"- `model{runtime.suffix}`: {inputs}, to {outputs}, float32.",
        "- `tokenizer.json`: for the package tokenizers.",
        "- `glot.json`: classes, thresholds, prompt, lengths, the run's scores, versions.",
    ]
    if facts["pair_outputs"]:
        (name,) = facts["pair_outputs"]
        inputs = "`vectors_a` and `vectors_b` of the texts of B pairs"
        lines.insert(1, f"- `head{runtime.suffix}`: {inputs}, to {shapes[name]}, float32.")
    return lines
