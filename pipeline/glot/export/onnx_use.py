"""The page beside an exported ONNX file: what the files are, and the lines of Python that use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glot.store.files import write_text

USE_FILE = "README.md"

_SETUP = '''\
import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = Path(".")  # where this page lies
facts = json.loads((folder / "glot.json").read_text(encoding="utf-8"))
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))  # cuts and pads as the run did
session = onnxruntime.InferenceSession(folder / "model.onnx")


def run({parameters}):
    """Each output by its name, of {what}."""
    filled = {filled}
    tokens = tokenizer.encode_batch(filled)
    ids = np.array([text.ids for text in tokens], dtype=np.int64)
    mask = np.array([text.attention_mask for text in tokens], dtype=np.int64)
{empty}    found = session.run(None, {{"input_ids": ids, "attention_mask": mask}})
    return dict(zip([output.name for output in session.get_outputs()], found))


found = run({example})
print(found["vectors"].shape)  # (2, {width})
'''
_EMPTY = """\
    if not ids.shape[1]:  # texts without a token: the model puts in an end of text
        ids = mask = np.zeros((len(filled), 1), dtype=np.int64)
"""
_TEXTS = '["a late goal", "the price of bread"]'
_PAIRS = f'{_TEXTS}, ["they won at last", "rain falls"]'


def write_use(folder: Path, facts: dict[str, Any]) -> None:
    """Write `README.md` from what `glot.json` holds."""
    is_prompt = facts["texts"] == 2 and not facts["pair_outputs"]  # both texts of a pair in one prompt
    lines = [
        f"# {facts['pooler']} over {facts['backbone']}, trained on {facts['task']}: ONNX",
        "",
        f"Made by {facts['made_by']} from a run and its frozen language model. It needs "
        "`pip install onnxruntime tokenizers numpy`, and neither torch nor transformers:",
        "",
        "```python",
        _code(facts, is_prompt).rstrip(),
        "```",
        "",
        *_files(facts),
        "",
        f"Texts are cut at {facts['max_tokens']} tokens. The numbers are those of `glot encode` and `glot predict`, "
        "which the export has checked on some texts, alone and padded.",
    ]
    if is_prompt:
        lines += ["", "Where a pair is too long its end is cut, and glot itself cuts the longer text."]
    if facts["computed_in"] != "float32":
        lines += ["", f"The run computed in {facts['computed_in']} and the files in float32: they differ by rounding."]
    write_text(folder / USE_FILE, "\n".join(lines) + "\n")


def _code(facts: dict[str, Any], is_prompt: bool) -> str:
    by_text, by_pair = (
        'facts["template"].replace("{text}", text)',
        're.sub(r"{text(_b)?}", lambda place: b if place[1] else a, facts["template"])',
    )
    code = _SETUP.format(
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
        code += (
            'head = onnxruntime.InferenceSession(folder / "head.onnx")\n'
            'a, b = found["vectors"], run(["they won at last", "rain falls"])["vectors"]\n'
            '(answers,) = head.run(None, {"vectors_a": a, "vectors_b": b})\n'
        )
        name, answers = facts["pair_outputs"][0], "answers"
    elif len(facts["outputs"]) == 1:
        return code
    else:
        name = facts["outputs"][1]
        answers = f'found["{name}"]'
    if name == "scores":
        return code + f"print({answers})  # (2,)\n"
    return code + f'print([facts["classes"][best] for best in {answers}.argmax(axis=1)])\n'


def _files(facts: dict[str, Any]) -> list[str]:
    shapes = {
        "vectors": f"`vectors` (B, {facts['width']})",
        "probabilities": f"`probabilities` (B, {len(facts['classes'])}), in the order of `classes`",
        "scores": "`scores` (B,)",
    }
    outputs = " and ".join(shapes[name] for name in facts["outputs"])
    lines = [
        f"- `model.onnx`: `input_ids` and `attention_mask` (B, L) int64, padded on the right, to {outputs}, float32.",
        "- `tokenizer.json`: for the package tokenizers.",
        "- `glot.json`: classes, prompt, lengths, the run's scores, versions.",
    ]
    if facts["pair_outputs"]:
        (name,) = facts["pair_outputs"]
        line = f"- `head.onnx`: `vectors_a` and `vectors_b` of the texts of B pairs, to {shapes[name]}, float32."
        lines.insert(1, line)
    return lines
