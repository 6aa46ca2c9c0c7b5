"""The font of figures: DejaVu Sans, regular and oblique, cut to the characters that figures write (`make fonts`).

A PDF holds the glyphs that it uses, and to take those out of the 6,000 of the whole font was a third of the time of a figure.
"""

from pathlib import Path
from typing import Final

from matplotlib.font_manager import fontManager

FAMILY: Final = "Avalanche Sans"
WHOLE: Final = "DejaVu Sans"
"""The family it is cut from, which ships with matplotlib and has what other scripts need."""
FILES: Final = {face: Path(__file__).with_name(f"AvalancheSans{face}.ttf") for face in ("", "-Oblique")}


def register() -> None:
    """Let matplotlib find the font by its name."""
    for file in FILES.values():
        fontManager.addfont(file)
