"""The template that the backbone reads a text in, or both texts of a pair at once.

A template that holds "{text_b}" too makes one text of a pair. Such a text is kept as both, a JSON list, and not as it
is filled in: so its own tokens are told from the template's, and the longer of the two is cut first.
"""

from __future__ import annotations

import json
import re

from glot.errors import UsageError

TEXT = "{text}"  # the text's place in a template; alone it is the template of no template
TEXT_B = "{text_b}"  # the place of a pair's second text
_PLACES = {TEXT: 1, TEXT_B: 2}


def takes_pair(template: str) -> bool:
    """Whether both texts of a pair stand in the template."""
    return TEXT_B in template


def join_pair(text: str, text_b: str) -> str:
    """Both texts of a pair as the one text that is filled into a template for both: '["first", "second"]'."""
    return json.dumps([text, text_b], ensure_ascii=False)


def split_pair(joined: str) -> tuple[str, str]:
    """The texts that `join_pair` made one of."""
    text, text_b = json.loads(joined)
    return text, text_b


def pieces(template: str, text: str) -> list[tuple[str, int]]:
    """What the backbone reads of a text, in pieces, each with whose it is: 0 the template's, else the text's.

    For a template of pairs the text is one of `join_pair`; its first text is 1, its second 2.
    """
    given = {TEXT: text}
    if takes_pair(template):
        given = dict(zip((TEXT, TEXT_B), split_pair(text), strict=True))
    parts = re.split(f"({'|'.join(map(re.escape, given))})", template)
    return [(given.get(part, part), _PLACES[part] if part in given else 0) for part in parts]


def fill(template: str, text: str) -> str:
    """What the backbone reads of a text: the template with the text (or both, see `pieces`) in its place."""
    return text if template == TEXT else "".join(piece for piece, _ in pieces(template, text))


def check_prompt(template: str) -> None:
    """Raise UsageError where a template does not say once where the text goes."""
    if template.count(TEXT) != 1:
        raise UsageError(f"--prompt {template!r} must hold {TEXT} once, where the text goes, as in 'Classify: {TEXT}'")
    if template.count(TEXT_B) > 1:
        raise UsageError(f"--prompt {template!r} must hold {TEXT_B} once, where the second text of a pair goes")


def check_pairs(template: str, task: str, num_texts: int, labelled: bool) -> None:
    """Raise UsageError where a template takes both texts of a pair, and the examples of a task are no such pairs."""
    if not takes_pair(template):
        return
    if not labelled:
        raise UsageError(
            f"a prompt with {TEXT_B} makes one text of a pair, and of pairs without labels each text has a vector of "
            f"its own: leave {TEXT_B} out"
        )
    if num_texts != 2:
        raise UsageError(
            f"a prompt with {TEXT_B} makes one text of a pair, and {task} has one text an example: leave {TEXT_B} out, "
            "or for your own data name the column of the second text with --text-b"
        )
