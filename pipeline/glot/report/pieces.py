"""How a tokenizer's strings are shown to people: without its marks for spaces, with pieces of one word together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WORD_STARTS = ("\u0120", "\u2581")  # how byte-level BPE and SentencePiece spell a space
_SIGNS = {"\n": "⏎", "\r": "⏎", "\t": "⇥"}
_PRINTED = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
# Byte-level BPE spells each byte as a character: those that print as themselves, the others from 256 on, in order.
_BYTES = {chr(256 + index): byte for index, byte in enumerate(sorted(set(range(256)) - _PRINTED))}
_BYTES |= {chr(byte): byte for byte in _PRINTED}


@dataclass(frozen=True)
class Piece:
    """A token for people: what is shown of it, and whether it goes on with the word of the token before it."""

    shown: str
    glued: bool


def readable_pieces(tokens: Sequence[str], special: Sequence[bool]) -> list[Piece]:
    """The tokens of one text for people. Which tokenizer spelled them is told from the strings themselves."""
    marked = any(mark in token for token in tokens for mark in WORD_STARTS)
    byte_level = any(WORD_STARTS[0] in token for token in tokens)
    pieces: list[Piece] = []
    after_content = False
    for token, is_special in zip(tokens, special, strict=True):
        if is_special:
            pieces.append(Piece(visible(token), False))
        elif token.startswith("##") and len(token) > 2:
            pieces.append(Piece(visible(token[2:]), after_content))
        else:
            starts = token.startswith(WORD_STARTS)
            bare = token[1:] if starts else token
            bare = _decode_bytes(bare) if byte_level else bare
            pieces.append(Piece(visible(bare) if bare or not starts else "␣", marked and not starts and after_content))
        after_content = not is_special
    return pieces


def words_of(pieces: Sequence[Piece]) -> Iterator[list[int]]:
    """The indices of the pieces of each word."""
    word: list[int] = []
    for index, piece in enumerate(pieces):
        if word and not piece.glued:
            yield word
            word = []
        word.append(index)
    if word:
        yield word


def visible(text: str) -> str:
    """A text in which nothing is invisible: spaces alone, control characters and the empty string become signs."""
    if not text.strip(" "):
        return "␣" * len(text) or "∅"
    return "".join(_SIGNS.get(mark, mark if mark.isprintable() else f"\\x{ord(mark):02x}") for mark in text)


def _decode_bytes(token: str) -> str:
    """The text of a byte-level token; bytes that are no UTF-8 by themselves are spelled out."""
    if not all(mark in _BYTES for mark in token):
        return token
    return bytes(_BYTES[mark] for mark in token).decode("utf-8", "backslashreplace")
