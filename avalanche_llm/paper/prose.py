"""Text made of words and facts: the words may hold no number, so that every number of a section has a source (spec 20).

A template is filled with facts, with text that follows the same rule, or with prose. A number counts as typed by hand
when it does not hang on a letter: T01, S1 and ADJ_4N are names, 0.4 and 95 are numbers. Equations are exempt and stand in
a block of their own.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Final

from avalanche_llm.errors import SchemaError
from avalanche_llm.paper.facts import Fact

TYPED_NUMBER: Final = re.compile(r"(?<![\w.])[-+]?\.?\d")
_LINK_TARGET: Final = re.compile(r"\]\([^)]*\)")
Part = str | Fact


@dataclass(frozen=True)
class Prose:
    """Words and facts in order."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return "".join(map(str, self.parts))

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The facts in the order they are read."""
        return tuple(part for part in self.parts if isinstance(part, Fact))


Filling = str | Fact | Prose


@dataclass(frozen=True)
class Page:
    """One file of the paper: blocks with an empty line between them."""

    name: str
    blocks: tuple[Prose, ...]

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.blocks)) + "\n"

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Every fact of the page, each once, in order."""
        return tuple(dict.fromkeys(fact for block in self.blocks for fact in block.facts))


def prose(template: str, **fillings: Filling) -> Prose:
    """A template such as "b_tot is {b} at g = {g}", filled. SchemaError for a number in its words."""
    parts: list[Part] = []
    for words, name, _, _ in Formatter().parse(template):
        if words:
            parts.append(_worded(words))
        if name is not None:
            parts.extend(_parts(fillings[name]))
    return Prose(tuple(parts))


def joined(pieces: Sequence[Filling], separator: str = ", ") -> Prose:
    """Pieces one after the other."""
    parts: list[Part] = []
    for place, piece in enumerate(pieces):
        parts.extend([separator] * bool(place) + list(_parts(piece)))
    return Prose(tuple(parts))


def interval(low: Fact, high: Fact) -> Prose:
    """[low, high]."""
    return prose("[{low}, {high}]", low=low, high=high)


def span(ends: tuple[Fact, Fact]) -> Prose:
    """ "low to high", or one value where the two read the same."""
    low, high = ends
    return Prose((low,)) if str(low) == str(high) else prose("{low} to {high}", low=low, high=high)


def heading(text: str, level: int = 2) -> Prose:
    """A heading."""
    return prose(f"{'#' * level} {text}")


def bullets(items: Iterable[Prose]) -> Prose:
    """A list."""
    return joined([joined(["- ", item], "") for item in items], "\n")


def equation(*lines: str) -> Prose:
    """Lines of an equation, as they are."""
    return Prose(("```\n" + "\n".join(lines) + "\n```",))


def table(header: Sequence[str], rows: Iterable[Sequence[Filling]]) -> Prose:
    """A Markdown table."""
    lines: list[Prose] = [joined(["| ", joined(list(header), " | "), " |"], ""), Prose(("|" + " --- |" * len(header),))]
    for row in rows:
        if len(row) != len(header):
            raise SchemaError(f"a row of {len(row)} cells under {len(header)} headings: {', '.join(header)}")
        lines.append(joined(["| ", joined(list(row), " | "), " |"], ""))
    return joined(lines, "\n")


def _parts(filling: Filling) -> tuple[Part, ...]:
    if isinstance(filling, Prose):
        return filling.parts
    return (filling,) if isinstance(filling, Fact) else (_worded(filling),)


def _worded(words: str) -> str:
    found = TYPED_NUMBER.search(_LINK_TARGET.sub("]", words))
    if found:
        raise SchemaError(f"a number is typed by hand in {words!r}; fill it in as a Fact, read from a table or a record")
    return words
