"""The font of figures is DejaVu Sans but for its name, holds what figures write, and lets other scripts through."""

import re
import warnings
from pathlib import Path

import figure_fonts
import pytest
from fontTools.ttLib import TTFont
from matplotlib.figure import Figure
from test_figures import DRAW, rendered

from avalanche_llm.plotting import fonts, style

NOBODY = style.Provenance(*["-"] * len(style.Provenance.__dataclass_fields__))


def saved(family: str | list[str], text: str, style_of_face: str = "normal") -> style.FigureFiles:
    with style.context():
        figure = Figure(figsize=(30.0, 1.0))
        figure.text(0.01, 0.5, text, family=family, style=style_of_face)
        return style.save(figure, NOBODY)


def drawn_by(file: Path) -> set[int]:
    """The characters of a font."""
    with TTFont(file) as font:
        return set(font.getBestCmap())


def embedded(pdf: bytes) -> set[bytes]:
    return set(re.findall(rb"/BaseFont /(?:[A-Z]{6}\+)?([\w-]+)", pdf))


@pytest.mark.parametrize("face", fonts.FILES)
def test_shipped_face_is_cut_from_what_matplotlib_ships(face: str) -> None:
    assert fonts.FILES[face].read_bytes() == figure_fonts.cut(face), "run make fonts"


@pytest.mark.parametrize("style_of_face", ["normal", "italic"])
def test_every_character_is_drawn_as_by_the_whole_font(style_of_face: str) -> None:
    text = "".join(map(chr, drawn_by(fonts.FILES[""]))) + "AVAToWa. office"
    ours, whole = (saved(family, text, style_of_face).png for family in (fonts.FAMILY, fonts.WHOLE))
    assert ours == whole
    assert ours != saved(fonts.WHOLE, text + "b", style_of_face).png


@pytest.mark.parametrize("figure_id", DRAW)
def test_figures_need_no_other_font(figure_id: str) -> None:
    _, files = rendered(figure_id)
    assert {name.partition(b"-")[0] for name in embedded(files.pdf)} == {b"AvalancheSans"}


def test_a_name_in_another_script_is_drawn_by_the_whole_font() -> None:
    assert ord("м") not in drawn_by(fonts.FILES[""])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = saved([fonts.FAMILY, fonts.WHOLE], "модель g = 1")
    assert embedded(files.pdf) == {b"AvalancheSans", b"DejaVuSans"}
