"""One look for every figure, and one way to turn a figure into bytes (spec 19).

A figure is one column wide (3.4 in), no text is below 7 pt, series differ in colour (Okabe-Ito), marker and
line style at once, and only `Figure` objects are used: nothing touches pyplot, and the settings start from
the library's defaults, so a user's own settings change no byte. `save` writes PDF and PNG with the
provenance in the file: entries of the PDF's information dictionary, tEXt chunks of the PNG. Neither holds a
date or a random id; the same figure and the same library versions give the same bytes.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from types import MappingProxyType
from typing import Any, Final, ParamSpec, TypeVar

import matplotlib
import matplotlib.style
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf, PdfPages
from matplotlib.figure import Figure

from avalanche_llm.errors import SchemaError
from avalanche_llm.plotting import fonts

COLUMN_WIDTH_IN: Final = 3.4
FONT_PT: Final = 7.5
SMALL_PT: Final = 7.0

BLACK: Final = "#000000"
GREY: Final = "#8C8C8C"
GRID: Final = "#E3E3E3"

STYLE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "font.family": [fonts.FAMILY, fonts.WHOLE],  # both ship with us or matplotlib, so every machine sets the same text
        "mathtext.fontset": "custom",
        "mathtext.fallback": None,  # the same font has every symbol
        **{f"mathtext.{face}": fonts.FAMILY for face in ("rm", "bf", "cal", "sf", "tt")},
        **{f"mathtext.{face}": f"{fonts.FAMILY}:italic" for face in ("it", "bfit")},
        "font.size": FONT_PT,
        "axes.labelsize": FONT_PT,
        "axes.titlesize": FONT_PT,
        "figure.labelsize": FONT_PT,
        "figure.titlesize": FONT_PT,
        "xtick.labelsize": SMALL_PT,
        "ytick.labelsize": SMALL_PT,
        "legend.fontsize": SMALL_PT,
        "legend.title_fontsize": SMALL_PT,
        "legend.frameon": False,
        "legend.columnspacing": 1.2,
        "axes.linewidth": 0.6,
        "axes.ymargin": 0.1,
        "axes.titlepad": 3.0,
        "axes.titley": 1.0,  # where it would stand anyhow: no ticks on top, so none to look for
        "axes.labelpad": 2.0,
        "axes.unicode_minus": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": GRID,
        "grid.linewidth": 0.4,
        "lines.linewidth": 0.9,
        "lines.markersize": 3.0,
        "lines.markeredgewidth": 0.7,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "figure.dpi": 300,
        "savefig.dpi": 300,
        "pdf.fonttype": 42,  # text stays text
        "svg.hashsalt": "avalanche_llm",
    }
)


@dataclass(frozen=True)
class Series:
    """How one series is drawn: colour, marker and line style, each enough to tell it from its neighbours."""

    color: str
    marker: str
    linestyle: str | tuple[int, tuple[float, ...]]


_SERIES: Final = (
    Series("#0072B2", "o", "-"),
    Series("#D55E00", "s", "--"),
    Series("#009E73", "^", "-."),
    Series("#CC79A7", "D", ":"),
    Series("#E69F00", "v", (0, (5.0, 1.0, 1.0, 1.0, 1.0, 1.0))),
    Series("#56B4E9", "P", (0, (3.0, 1.0))),
    Series("#000000", "X", (0, (1.0, 1.0))),
)


@dataclass(frozen=True)
class Provenance:
    """Where a figure comes from. Several values of one field are joined with commas."""

    run_id: str
    model_id: str
    dataset_role: str
    spike_def_id: str
    target_rate: str
    g: str
    config_hash: str


@dataclass(frozen=True)
class FigureFiles:
    """The bytes of the two exports of one figure."""

    pdf: bytes
    png: bytes


fonts.register()

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def context() -> Iterator[None]:
    """The library's defaults overlaid with `STYLE`; the caller's settings come back afterwards."""
    with matplotlib.style.context(["default", dict(STYLE)]):
        yield


def styled(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run a drawing function inside `context`."""

    @wraps(draw)
    def inside(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with context():
            return draw(*args, **kwargs)

    return inside


def series(index: int) -> Series:
    """The `index`-th look; colours repeat after seven, never together with the same marker and line style."""
    turn, place = divmod(index, len(_SERIES))
    other = _SERIES[(place + turn) % len(_SERIES)]
    return Series(_SERIES[place].color, other.marker, other.linestyle)


def scientific(value: float) -> str:
    """A rate for a reader: 2e-05 as 2×10⁻⁵, with up to three significant digits."""
    mantissa, exponent = f"{value:.2e}".split("e")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.rstrip('0').rstrip('.')}×10{power}" if value else "0"


def new_figure(height_in: float) -> Figure:
    """An empty figure, one column wide. Call inside `context`."""
    return Figure(figsize=(COLUMN_WIDTH_IN, height_in), layout="constrained")


def provenance_of(frame: pd.DataFrame) -> Provenance:
    """The provenance of a figure drawn from one table: the distinct values, in order of appearance.

    Raises SchemaError if the table lacks one of the columns.
    """
    fields = {}
    for name in Provenance.__dataclass_fields__:
        if name not in frame:
            raise SchemaError(f"provenance needs the column {name}, found {', '.join(map(str, frame.columns))}")
        fields[name] = ",".join(str(value) for value in dict.fromkeys(frame[name].tolist()))
    return Provenance(**fields)


def save(figure: Figure, provenance: Provenance) -> FigureFiles:
    """PDF and PNG bytes of `figure`, each with the fields of `provenance` under their own names.

    The layout is settled once, so both files place every artist alike and a second call gives the same
    bytes.
    """
    fields: dict[str, str] = asdict(provenance)
    with context():
        _leave_unlabelled(figure)
        canvas = FigureCanvasAgg(figure)  # texts that the layout measures need not be measured again to be drawn
        layout = figure.get_layout_engine()
        if layout is not None:
            layout.execute(figure)  # it goes over the panels twice: their places follow from ticks, and these from their sizes
            figure.set_layout_engine("none")
        figure.set_dpi(STYLE["figure.dpi"])  # a PDF leaves its own behind
        png, pdf = io.BytesIO(), io.BytesIO()
        # the canvases themselves, because savefig draws a figure that had a layout once more for each
        canvas.print_png(png, metadata=fields)
        # PdfPages, because a metadata argument warns about every key outside the PDF standard
        with PdfPages(pdf, metadata={"CreationDate": None}) as pages:
            pages.infodict().update(fields)
            pages.infodict()["Keywords"] = "; ".join(f"{name}={value}" for name, value in fields.items())
            FigureCanvasPdf(figure).print_pdf(pages)
    return FigureFiles(pdf=pdf.getvalue(), png=png.getvalue())


def _leave_unlabelled(figure: Figure) -> None:
    """Give labels without text a place: the library would look for one below the ticks, at every layout and drawing."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if not axis.get_label_text():
            axis.set_label_coords(0.0, 0.0)
