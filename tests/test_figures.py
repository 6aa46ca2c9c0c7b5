"""Every figure from tables of realistic shape: drawn, labelled, stamped, byte-stable, and calm about gaps."""

import hashlib
import io
import os
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image
from scipy import ndimage

from avalanche_llm.canon import load_canon
from avalanche_llm.errors import SchemaError
from avalanche_llm.plotting import figures, style
from avalanche_llm.plotting.fig_panels import curve
from avalanche_llm.plotting.style import Provenance, styled
from avalanche_llm.settings import GstarMethod

DEFINITIONS = ("SPIKE_ONE_SIDED_POS", "SPIKE_TWO_SIDED_ABS")
RATES = (1e-5, 2e-5, 4e-5, 8e-5)
GAINS = (0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3)
INTERVENTIONS = ("MLP_GLOBAL", "ATTN_GLOBAL", "MLP_BAND_EARLY", "MLP_BAND_MID", "MLP_BAND_LATE")
PROVENANCE = Provenance(
    run_id="RUN_S05_9b8f2e0a1c3d",
    model_id="org/model (7B)",
    dataset_role="A",
    spike_def_id=",".join(DEFINITIONS),
    target_rate="1e-05,2e-05",
    g="0.7,1.0,1.3",
    config_hash="0" * 64,
)


def summary() -> pd.DataFrame:
    """T01's plotted columns; density, and with it b_tot, rises with the target rate."""
    rng = np.random.default_rng(11)
    rows = []
    for shift, definition in enumerate(DEFINITIONS):
        for level, rate in enumerate(RATES):
            for g in GAINS:
                p = 0.16 * (level + 1) + 0.1 * (1 - g) + 0.03 * shift
                time, depth = p + 0.06 + 0.1 * (g - 1), p + 0.10 - 0.15 * (g - 1) ** 2
                row: dict[str, float | str] = {
                    "run_id": PROVENANCE.run_id,
                    "model_id": PROVENANCE.model_id,
                    "dataset_role": "A",
                    "config_hash": PROVENANCE.config_hash,
                    "spike_def_id": definition,
                    "target_rate": rate,
                    "g": g,
                    "rate_match_tol_abs": 5e-4,
                    "achieved_rate_mean": rate * (1 + rng.normal(0, 2e-3)),
                    "achieved_rate_max_abs_err": rate * float(rng.choice([0.0, 1e-3, 4e-3])),
                    "b_time": time,
                    "b_depth": depth,
                    "b_tot": time + depth,
                    "delta_b_time": time - p,
                    "delta_b_depth": depth - p,
                    "delta_b_tot": time + depth - 2 * p + rng.normal(0, 0.005),
                    "opt_delta_b_depth_shift": 0.8 * (time + depth - 2 * p) + rng.normal(0, 0.005),
                    "chi": 5 * (level + 1) * np.exp(-(((g - 0.95) / 0.2) ** 2)) + 2,
                }
                widths = {"b_time": 0.02, "b_depth": 0.03, "b_tot": 0.04, "delta_b_tot": 0.02, "chi": 1.2}
                for name in (*widths, "delta_b_depth_shift"):
                    value = float(row.get(name, row["opt_delta_b_depth_shift"]))
                    row[f"opt_{name}_ci_low"] = value - widths.get(name, 0.02)
                    row[f"opt_{name}_ci_high"] = value + widths.get(name, 0.02)
                rows.append(row)
    return pd.DataFrame(rows)


def gstar() -> pd.DataFrame:
    """One selected gain per condition, every status among them."""
    chosen = [(0.7, "no_crossing"), (1.3, "grid_edge"), (0.95, "bracketed"), (1.05, "bracketed")]
    return pd.DataFrame(
        [
            {
                "spike_def_id": definition,
                "target_rate": rate,
                "gstar": gain,
                "status": status,
                "gstar_ci_low": max(0.7, gain - 0.1),
                "gstar_ci_high": min(1.3, gain + 0.05),
                "curve": [{"g": g, "criterion": 0.9 + 0.05 * g, "ci_low": 0.85 + 0.05 * g, "ci_high": 0.99} for g in GAINS],
            }
            for definition in DEFINITIONS
            for rate, (gain, status) in zip(RATES, chosen, strict=True)
        ]
    )


def paired() -> pd.DataFrame:
    """T02 and T03 in one: every condition at g1 and at gstar."""
    rng = np.random.default_rng(12)
    rows = []
    for definition in DEFINITIONS:
        for level, rate in enumerate(RATES):
            for condition, g in (("g1", 1.0), ("gstar", 0.95)):
                selected = condition == "gstar"
                accuracy = 0.52 - 0.01 * level * selected
                levels = {
                    "b_tot": 0.5 + 0.35 * level + 0.05 * selected + rng.normal(0, 0.01),
                    "delta_b_tot": 0.1 + 0.02 * level + 0.02 * selected,
                    "chi": 6.0 + 4 * level + 2 * selected,
                    "nll_mean": 2.31 + 0.03 * level * selected,
                }
                changes = {"b_tot": 0.05, "delta_b_tot": 0.02, "chi": 2.0, "nll_mean": 0.03 * level}
                paired_changes = {f"diff_{name}": change if selected else np.nan for name, change in changes.items()}
                intervals = {
                    f"opt_{name}_ci_{end}": value * (1 + 0.2 * sign)
                    for name, value in (levels | paired_changes).items()
                    for end, sign in (("low", -1), ("high", 1))
                }
                rows.append(
                    {
                        **levels,
                        **{f"opt_{name}": change for name, change in paired_changes.items()},
                        **intervals,
                        "spike_def_id": definition,
                        "target_rate": rate,
                        "g_condition": condition,
                        "g": g,
                        "n_questions": 1172,
                        "accuracy": accuracy,
                        "accuracy_ci_low": accuracy - 0.03,
                        "accuracy_ci_high": accuracy + 0.03,
                        "opt_delta_accuracy": -0.01 * level if selected else np.nan,
                        "opt_delta_accuracy_ci_low": -0.01 * level - 0.012 if selected else np.nan,
                        "opt_delta_accuracy_ci_high": -0.01 * level + 0.012 if selected else np.nan,
                    }
                )
    return pd.DataFrame(rows)


def nulls() -> pd.DataFrame:
    """F10's tidy frame; the token shuffle was measured at g = 1 only."""
    gaps = {
        "NULL_NONE": 0.0,
        "NULL_RASTER_WITHIN_LAYER_TIME_PERM": 0.16,
        "NULL_RASTER_WITHIN_LAYER_TIME_CIRC_SHIFT": 0.12,
        "NULL_RASTER_MARGIN_SWAP": 0.05,
        "NULL_RASTER_COMMON_CIRC_SHIFT": 0.01,
        "NULL_TOKEN_SHUFFLE_INPUT": 0.03,
    }
    parts = []
    for null_id, gap in gaps.items():
        part = summary()[["spike_def_id", "target_rate", "g", "b_tot"]].assign(null_id=null_id)
        part = part.assign(delta_b_tot=gap * part["g"], b_tot=part["b_tot"] - gap * part["g"])
        parts.append(part[part["g"] == 1.0] if null_id == "NULL_TOKEN_SHUFFLE_INPUT" else part)
    return pd.concat(parts, ignore_index=True)


def interventions() -> pd.DataFrame:
    """T06's plotted columns."""
    rng = np.random.default_rng(13)
    return pd.DataFrame(
        [
            {
                "spike_def_id": definition,
                "target_rate": rate,
                "g_condition": condition,
                "g": 1.0 if condition == "g1" else 0.95,
                "intervention_id": intervention,
                "gain_target": intervention.split("_")[0],
                "b_tot": 0.5 + 0.35 * level + rng.normal(0, 0.04),
                "delta_b_tot": 0.12 + rng.normal(0, 0.02),
                "chi": 5.0 + 4 * level + rng.normal(0, 0.5),
            }
            for definition in DEFINITIONS
            for level, rate in enumerate(RATES)
            for condition, intervention in (
                ("g1", "MLP_GLOBAL"),
                *(("gstar", name) for name in INTERVENTIONS),
            )
        ]
    )


def sites() -> pd.DataFrame:
    """The occupied sites of a random raster of 28 layers and 256 tokens with bursts, labelled 4N."""
    rng = np.random.default_rng(14)
    chance = np.where((np.arange(256) // 16) % 3 == 0, 0.55, 0.18)
    labels, _ = ndimage.label(rng.random((28, 256)) < chance)
    return figures.raster_rows(labels)


DRAW: dict[str, Callable[[], Figure]] = {
    "F01_RASTER_EXAMPLE": lambda: figures.raster_example(sites(), n_layers=28, n_tokens=256),
    "F02_RATE_MATCH_CHECK": lambda: figures.rate_match(summary(), relative_tolerance=0.02),
    "F03_BRANCHING_CURVES": lambda: figures.branching_curves(summary()),
    "F04_NULL_DELTAB": lambda: figures.null_delta_b(summary()),
    "F05_GSTAR_SELECTION": lambda: figures.gstar_selection(summary(), gstar()),
    "F06_GENERALIZATION_B": lambda: figures.generalization(paired()),
    "F07_ARC_MCQ": lambda: figures.arc_accuracy(paired(), chance=0.25),
    "F08_SPIKEDEF_ROBUST": lambda: figures.spike_definitions(summary()),
    "F09_CHI_CURVES": lambda: figures.chi_curves(summary(), gstar(), alignment_max=0.2),
    "F10_NULL_COMPARE": lambda: figures.null_compare(nulls(), gstar()),
    "F11_ABLATIONS": lambda: figures.ablations(interventions()),
}


@cache
def rendered(figure_id: str) -> tuple[Figure, style.FigureFiles]:
    figure = DRAW[figure_id]()
    return figure, style.save(figure, PROVENANCE)


def texts(figure: Figure) -> list[Text]:
    """Every text with something in it, tick labels and legends included."""
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in texts(figure))


def shown(figure: Figure) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Text and box in pixels of what a drawn page shows: tick labels outside the axis limits are not."""
    hidden = set()
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                slack = 1e-9 * abs(high - low)
                if not min(low, high) - slack <= tick.get_loc() <= max(low, high) + slack:
                    hidden |= {tick.label1, tick.label2}
    return [(t.get_text(), t.get_window_extent().extents) for t in texts(figure) if t not in hidden]


def y_of(line: Line2D) -> list[float]:
    return list(np.asarray(line.get_ydata(), dtype=np.float64))


def x_of(line: Line2D) -> list[float]:
    return np.asarray(line.get_xdata(), dtype=float).tolist()


@styled
def bars_of(low: list[float], high: list[float]) -> list[list[float]]:
    """The gains of the error bars that one curve draws over the gains 1, 2, 3."""
    axes = Figure().subplots()
    rows = pd.DataFrame({"g": [1.0, 2.0, 3.0], "b_tot": 0.5, "opt_b_tot_ci_low": low, "opt_b_tot_ci_high": high})
    curve(axes, rows, "b_tot", style.series(0))
    bars = [part for part in axes.collections if isinstance(part, LineCollection)]
    return [np.asarray(segment)[:, 0].tolist() for part in bars for segment in part.get_segments()]


def test_curve_shows_an_interval_whose_neighbours_have_none() -> None:
    """Its band would have no width; where neighbours have one too, the band is enough."""
    none = float("nan")
    assert bars_of([none, 0.4, none], [none, 0.6, none]) == [[2.0, 2.0]]
    assert bars_of([0.4, none, 0.4], [0.6, none, 0.6]) == [[1.0, 1.0], [3.0, 3.0]]
    assert bars_of([0.4, 0.4, none], [0.6, 0.6, none]) == []
    assert bars_of([0.4, 0.4, 0.4], [0.6, 0.6, 0.6]) == []


def test_figures_has_every_canonical_id() -> None:
    assert tuple(figures.FIGURES) == tuple(load_canon()["ID.FIG"])
    assert set(DRAW) == set(figures.FIGURES)


@pytest.mark.parametrize("figure_id", DRAW)
def test_save_gives_the_same_bytes_from_two_renders(figure_id: str) -> None:
    _, first = rendered(figure_id)
    assert style.save(DRAW[figure_id](), PROVENANCE) == first
    assert first.pdf.startswith(b"%PDF") and b"CreationDate" not in first.pdf


def test_save_does_not_depend_on_process_settings_or_earlier_saves() -> None:
    code = textwrap.dedent(
        """
        import hashlib, sys
        sys.path[:0] = sys.argv[1:]
        import matplotlib
        matplotlib.rcParams.update({"font.size": 20, "savefig.dpi": 50, "xtick.direction": "in"})
        import test_figures as t
        files = t.style.save(t.DRAW["F04_NULL_DELTAB"](), t.PROVENANCE)
        assert "matplotlib.pyplot" not in sys.modules
        print(hashlib.sha256(files.pdf).hexdigest(), hashlib.sha256(files.png).hexdigest())
        """
    )
    here = Path(__file__).resolve().parent
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-c", code, str(here), str(here.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    figure, first = rendered("F04_NULL_DELTAB")
    assert done.stdout.split() == [hashlib.sha256(data).hexdigest() for data in (first.pdf, first.png)]
    assert style.save(figure, PROVENANCE) == first


@pytest.mark.parametrize("figure_id", ["F01_RASTER_EXAMPLE", "F11_ABLATIONS"])
def test_save_writes_the_provenance_into_both_files(figure_id: str) -> None:
    _, files = rendered(figure_id)
    with Image.open(io.BytesIO(files.png)) as image:
        stamped = dict(image.text)  # type: ignore[attr-defined]  # only PNG images have it
    for name, value in asdict(PROVENANCE).items():
        assert stamped[name] == value
        assert b"tEXt" + name.encode() + b"\0" + value.encode() in files.png
        found = re.search(rb"/%b \(((?:\\.|[^\\)])*)\)" % name.encode(), files.pdf)
        assert found is not None and re.sub(rb"\\(.)", rb"\1", found[1]) == value.encode()


def test_save_stamps_a_change_of_provenance() -> None:
    figure, first = rendered("F01_RASTER_EXAMPLE")
    other = style.save(figure, replace(PROVENANCE, g="0.95"))
    assert other.pdf != first.pdf and other.png != first.png


def test_styled_restores_the_callers_settings() -> None:
    before = dict(matplotlib.rcParams)
    DRAW["F04_NULL_DELTAB"]()
    assert dict(matplotlib.rcParams) == before


def test_provenance_of_joins_distinct_values_in_order() -> None:
    found = style.provenance_of(summary())
    assert (found.spike_def_id, found.target_rate) == (",".join(DEFINITIONS), "1e-05,2e-05,4e-05,8e-05")
    assert found.g == ",".join(map(str, GAINS))
    assert found.run_id == PROVENANCE.run_id
    with pytest.raises(SchemaError, match="config_hash"):
        style.provenance_of(summary().drop(columns="config_hash"))


@pytest.mark.parametrize(
    ("value", "text"), [(2e-5, "2×10⁻⁵"), (1.6e-3, "1.6×10⁻³"), (2e-4, "2×10⁻⁴"), (1.0, "1×10⁰"), (0.0, "0")]
)
def test_scientific_writes_powers_of_ten(value: float, text: str) -> None:
    assert style.scientific(value) == text


def test_series_never_repeats_a_whole_look() -> None:
    looks = [style.series(index) for index in range(21)]
    assert len(set(looks)) == len(looks)
    assert len({look.color for look in looks[:7]}) == len({look.marker for look in looks[:7]}) == 7


@pytest.mark.parametrize("figure_id", DRAW)
def test_figure_is_readable_at_one_column(figure_id: str) -> None:
    figure, _ = rendered(figure_id)
    assert figure.get_figwidth() == style.COLUMN_WIDTH_IN and figure.get_figheight() <= 9
    assert min(float(text.get_fontsize()) for text in texts(figure)) >= 7
    assert "critical" not in words(figure)
    page = figure.bbox
    boxes = shown(figure)
    for text, (left, bottom, right, top) in boxes:
        inside = left >= page.x0 and bottom >= page.y0 and right <= page.x1 and top <= page.y1
        assert inside, f"{text!r} leaves the page: {left, bottom, right, top} on {page.size}"
    # Slanted labels have boxes larger than themselves.
    upright = [box for box in boxes if not (figure_id == "F07_ARC_MCQ" and "×10" in box[0])]
    for place, (text, (left, bottom, right, top)) in enumerate(upright):
        for other, (x0, y0, x1, y1) in upright[place + 1 :]:
            overlap = min(right, x1) - max(left, x0) > 1 and min(top, y1) - max(bottom, y0) > 1
            assert not overlap, f"{text!r} overlaps {other!r}"
    for legend in figure.legends:
        for axes in figure.axes:
            assert not legend.get_window_extent().overlaps(axes.get_window_extent())


@pytest.mark.parametrize("figure_id", DRAW)
def test_figure_labels_every_outer_axis(figure_id: str) -> None:
    figure, _ = rendered(figure_id)
    labelled = [axes for axes in figure.axes if axes.get_xlabel() or figure.get_supxlabel()]
    assert len(labelled) == len(figure.axes)
    assert any(
        unit in words(figure) for unit in ("(pairs/site)", "(events", "(tokens)", "(share of questions)")
    )


def test_legend_stays_on_the_page_for_longer_rates() -> None:
    def longer(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(target_rate=frame["target_rate"] * 1.6e2)

    for figure in (
        figures.rate_match(longer(summary()), relative_tolerance=0.02),
        figures.chi_curves(longer(summary()), longer(gstar()), alignment_max=0.2),
        figures.generalization(longer(paired())),
        figures.ablations(longer(interventions())),
    ):
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
        assert len(figure.legends) == 1


def test_raster_rows_lists_occupied_sites() -> None:
    rows = figures.raster_rows(np.array([[0, 1, 1], [2, 0, 0]]))
    assert rows.to_dict("list") == {"layer": [0, 0, 1], "token": [1, 2, 0], "component": [1, 1, 2]}


def test_raster_example_colours_the_largest_component_first() -> None:
    labels = np.array([[1, 0, 2, 2, 2], [0, 3, 0, 0, 0]])
    figure = figures.raster_example(figures.raster_rows(labels), n_layers=2, n_tokens=5)
    image = np.asarray(figure.axes[0].images[0].get_array())
    assert image.tolist() == [[3, 0, 2, 2, 2], [0, 4, 0, 0, 0]]
    assert "3 components, 5 occupied sites, occupancy 0.500" in words(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["3 sites", "1 sites", "1 sites"]


def test_raster_example_says_when_a_sequence_is_silent_and_refuses_a_site_outside() -> None:
    silent = figures.raster_rows(np.zeros((3, 5), dtype=np.int64))
    assert "no activation event" in words(figures.raster_example(silent, n_layers=3, n_tokens=5))
    outside = pd.DataFrame({"layer": [3], "token": [0], "component": [1]})
    with pytest.raises(SchemaError, match="outside the raster"):
        figures.raster_example(outside, n_layers=3, n_tokens=5)


def test_branching_curves_draws_the_table() -> None:
    table = summary()
    figure = figures.branching_curves(table)
    rows = table[(table["spike_def_id"] == DEFINITIONS[1]) & (table["target_rate"] == RATES[2])]
    for panel, column in ((1, "b_time"), (3, "b_depth"), (5, "b_tot")):
        drawn = [line.get_ydata() for line in figure.axes[panel].lines]
        assert any(np.array_equal(line, rows[column]) for line in drawn)


def test_rate_match_draws_exact_matches_at_the_edge_and_both_tolerances() -> None:
    table = summary()
    table.loc[table["spike_def_id"] == DEFINITIONS[1], "achieved_rate_max_abs_err"] *= 20
    figure = figures.rate_match(table, relative_tolerance=0.02)
    bottom = figure.axes[2]
    assert bottom.get_ylim() == figure.axes[3].get_ylim()
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in bottom.lines])
    assert drawn.min() == bottom.get_ylim()[0] == pytest.approx(1e-4)
    for expected in (0.02, *(5e-4 / rate for rate in RATES)):
        assert np.isclose(drawn, expected).any()
    assert "exact (at edge)" in words(figure)


def test_gstar_selection_marks_the_gain_and_names_its_status() -> None:
    figure, _ = rendered("F05_GSTAR_SELECTION")
    stars = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "*"]
    assert [x_of(star)[0] for star in stars] == [0.7, 0.7, 1.3, 1.3, 0.95, 0.95, 1.05, 1.05]
    assert all(phrase in words(figure) for phrase in ("no crossing", "grid edge", "bracketed"))


@pytest.mark.parametrize(
    ("method", "symbol", "line"),
    [
        ("excess_peak", "$\\Delta b_\\mathrm{tot}$", "$\\Delta b_\\mathrm{tot}$ = 0, $b_\\mathrm{tot}$ = 1"),
        ("mr_near_one", "$m$", "$m$ = 1, $b_\\mathrm{tot}$ = 1"),
    ],
)
def test_gstar_selection_draws_what_the_rule_looks_at_and_b_tot_below_it(method: GstarMethod, symbol: str, line: str) -> None:
    table, chosen = summary(), gstar()
    figure = figures.gstar_selection(table, chosen, method=method)
    panels = np.array(figure.axes).reshape(len(RATES), 2, len(DEFINITIONS))
    assert {symbol, line, "$b_\\mathrm{tot}$"} <= {text.get_text() for text in texts(figure)}
    for column, definition in enumerate(DEFINITIONS):
        for row, rate in enumerate(RATES):
            cell = table[(table["spike_def_id"] == definition) & (table["target_rate"] == rate)].sort_values("g")
            looked_at = cell["delta_b_tot"] if method == "excess_peak" else 0.9 + 0.05 * cell["g"]
            gain = chosen.loc[(chosen["spike_def_id"] == definition) & (chosen["target_rate"] == rate), "gstar"].item()
            above, below = panels[row, :, column]
            np.testing.assert_allclose(y_of(above.lines[1]), looked_at)  # the line to compare with is the first
            np.testing.assert_allclose(y_of(below.lines[1]), cell["b_tot"])
            (star,) = (drawn for drawn in above.lines if drawn.get_marker() == "*")
            assert (x_of(star), y_of(star)) == ([gain], pytest.approx(looked_at[cell["g"] == gain].tolist()))
            assert not any(drawn.get_marker() == "*" for drawn in below.lines)
            assert all(x_of(panel.lines[2]) == [gain, gain] and panel.patches for panel in (above, below))
            assert above.get_title() and not below.get_title()


def test_gstar_selection_by_m_says_where_m_is_not_available() -> None:
    chosen = gstar()
    chosen["curve"] = [[{**point, "criterion": None} if point["g"] < 0.9 else point for point in of] for of in chosen["curve"]]
    figure = figures.gstar_selection(summary(), chosen, method="mr_near_one")
    assert "3 of 11 values n/a" in words(figure)
    with pytest.raises(SchemaError, match="F05 needs the column curve"):
        figures.gstar_selection(summary(), gstar().drop(columns="curve"), method="mr_near_one")
    with pytest.raises(SchemaError, match="F05 needs the column delta_b_tot"):
        figures.gstar_selection(summary().drop(columns="delta_b_tot"), gstar(), method="excess_peak")


def test_gstar_selection_needs_no_interval() -> None:
    figure = figures.gstar_selection(summary(), gstar().drop(columns=["gstar_ci_low", "gstar_ci_high"]))
    figure.draw_without_rendering()
    assert all(not axes.patches for axes in figure.axes)
    assert all(axes.patches for axes in rendered("F05_GSTAR_SELECTION")[0].axes)


def test_chi_curves_rings_the_maximum_and_shifts_by_gstar() -> None:
    figure, _ = rendered("F09_CHI_CURVES")
    rings = [[x_of(line)[0] for line in axes.lines if len(x_of(line)) == 1] for axes in figure.axes]
    assert rings[0] == [0.95] * 4
    assert rings[2] == pytest.approx([0.95 - gain for gain in (0.7, 1.3, 0.95, 1.05)])


def test_chi_is_drawn_as_its_interval_is_made_on_a_logarithmic_axis_unless_a_chi_is_0() -> None:
    table = summary()
    for changed, scale in ((table, "log"), (table.assign(chi=table["chi"].where(table["g"] != 1.0, 0.0)), "linear")):
        figure = figures.chi_curves(changed, gstar(), alignment_max=0.2)
        assert {axes.get_yscale() for axes in figure.axes} == {scale}


def test_null_compare_takes_the_value_at_gstar_and_hollows_a_stand_in() -> None:
    figure, _ = rendered("F10_NULL_COMPARE")
    dots = [line for line in figure.axes[2].lines if line.get_marker() not in ("None", "")]
    permutation, shuffle = dots[:4], dots[-4:]
    assert [x_of(dot)[0] for dot in permutation] == pytest.approx([0.16 * g for g in (0.7, 1.3, 0.95, 1.05)])
    assert {dot.get_markerfacecolor() for dot in shuffle} == {"white"}
    assert "white" not in {dot.get_markerfacecolor() for dot in permutation}


def test_generalization_pairs_g1_with_gstar_and_draws_the_paired_change_below() -> None:
    table = paired()
    figure, _ = rendered("F06_GENERALIZATION_B")
    level, change = figure.axes[0], figure.axes[2]
    first = table.iloc[:2]
    assert np.array_equal(np.asarray(level.lines[1].get_ydata(), dtype=float), first["b_tot"])  # lines[0] is the reference
    assert np.asarray(change.lines[1].get_ydata(), dtype=float).tolist() == [0.0, first["opt_diff_b_tot"].iloc[1]]
    bars = [path.vertices[:, 1].tolist() for bar in change.collections for path in bar.get_paths()]
    assert bars[0] == first[["opt_diff_b_tot_ci_low", "opt_diff_b_tot_ci_high"]].iloc[1].tolist()
    assert len(bars) == len(RATES)
    assert "$g$*: 0.95, 0.95, 0.95, 0.95" in words(figure)


def test_generalization_counts_what_a_silent_condition_lacks() -> None:
    table = paired()
    table.loc[table.index[:2], ["b_tot", "opt_diff_b_tot"]] = np.nan
    notes = words(figures.generalization(table))
    assert "2 of 8 values n/a" in notes and "1 of 4 values n/a" in notes


def test_figures_note_missing_values_instead_of_failing() -> None:
    table = summary()
    table.loc[3:5, ["b_tot", "chi"]] = np.nan
    table.loc[table["spike_def_id"] == DEFINITIONS[1], ["b_tot", "chi", "delta_b_tot"]] = np.nan
    table["opt_delta_b_depth_shift"] = np.nan
    chosen = gstar().drop(index=1)
    chosen.loc[0, "gstar"] = np.nan
    arc = paired().assign(opt_delta_accuracy=np.nan)
    ablated = interventions()
    ablated.loc[ablated["intervention_id"] == "ATTN_GLOBAL", ["b_tot", "chi"]] = np.nan
    gaps = nulls().assign(delta_b_tot=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = {
            "F03": (figures.branching_curves(table), ("3 of 44 values n/a", "44 of 44", "not available")),
            "F04": (figures.null_delta_b(table), ("44 of 44 values n/a", "not available")),
            "F05": (figures.gstar_selection(table, chosen), ("3 of 11 values n/a", "$g$* not available")),
            "F07": (figures.arc_accuracy(arc, chance=0.25), ("4 of 4 values n/a", "not available")),
            "F08": (figures.spike_definitions(table), ("14 of 22 values n/a",)),
            "F09": (figures.chi_curves(table, chosen, alignment_max=0.2), ("22 of 44 values n/a",)),
            "F10": (figures.null_compare(gaps), ("20 of 20 values n/a", "not available")),
            "F11": (figures.ablations(ablated), ("4 of 24 values n/a",)),
        }
        for figure, notes in drawn.values():
            figure.draw_without_rendering()
            assert all(note in words(figure) for note in notes)


def test_curves_hide_the_interval_of_a_missing_value_and_show_it_for_a_single_gain() -> None:
    table = summary()
    table.loc[table["target_rate"] == RATES[0], "b_tot"] = np.nan
    bands = figures.branching_curves(table).axes[4].collections
    drawn = [np.isfinite(band.get_paths()[0].vertices).all() if band.get_paths() else None for band in bands]
    assert drawn == [None, True, True, True]
    single = figures.branching_curves(table[table["g"] == 1.0]).axes[4].collections
    assert [len(bars.get_paths()) for bars in single] == [1, 1, 1, 1]


def test_figures_name_a_missing_column_and_an_empty_table() -> None:
    with pytest.raises(SchemaError, match="F03 needs the column b_depth"):
        figures.branching_curves(summary().drop(columns="b_depth"))
    with pytest.raises(SchemaError, match="F11 needs at least one row"):
        figures.ablations(interventions().iloc[:0])


def test_figures_leave_their_tables_unchanged() -> None:
    table, chosen = summary(), gstar()
    figures.chi_curves(table, chosen, alignment_max=0.2)
    figures.rate_match(table, relative_tolerance=0.02)
    pd.testing.assert_frame_equal(table, summary())
    pd.testing.assert_frame_equal(chosen, gstar())
