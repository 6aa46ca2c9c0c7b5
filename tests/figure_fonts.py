"""Cuts the font of figures from the one that matplotlib ships: `make fonts` writes it into the package."""

import io
from pathlib import Path
from typing import Final

import matplotlib
from fontTools import subset

from avalanche_llm.plotting import fonts

SHIPPED: Final = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
CHARACTERS: Final = (
    *range(0x20, 0x7F),
    *range(0xA0, 0x100),
    *range(0x391, 0x3CA),
    *range(0x2010, 0x2027),
    *range(0x2070, 0x209D),  # superscripts and subscripts
    *range(0x2190, 0x2196),
    *range(0x2200, 0x2270),
)


def cut(face: str) -> bytes:
    """One face under its own name: outlines, widths, kerning and hints are those of the whole font."""
    options = subset.Options(glyph_names=True, drop_tables=["FFTM", *subset.Options().drop_tables])
    with subset.load_font(SHIPPED / f"DejaVuSans{face}.ttf", options) as font:
        cutter = subset.Subsetter(options=options)
        cutter.populate(unicodes=CHARACTERS)
        cutter.subset(font)
        for entry in font["name"].names:
            names = str(entry).replace(fonts.WHOLE, fonts.FAMILY)
            entry.string = names.replace(f"DejaVuSans{face}", fonts.FILES[face].stem)
        written = io.BytesIO()
        font.save(written)
    return written.getvalue()


if __name__ == "__main__":
    for face, file in fonts.FILES.items():
        file.write_bytes(cut(face))
