"""What each figure and table shows, in words: captions, and text for readers who do not see the image (spec 19, spec 24)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class Caption:
    """`title` is short, `text` says how to read it, `alt` describes the drawing."""

    title: str
    text: str
    alt: str


_BAND: Final = "Bands are bootstrap intervals over sequences."

FIGURES: Final[Mapping[str, Caption]] = MappingProxyType(
    {
        "F01_RASTER_EXAMPLE": Caption(
            "Raster of one held-out sequence",
            "A site is coloured where at least one unit of the layer has an activation event at the token. The six largest "
            "connected components have a colour each, all others are grey.",
            "Grid of token position against layer with occupied sites; the six largest components in six colours, the rest grey.",
        ),
        "F02_RATE_MATCH_CHECK": Caption(
            "Do the thresholds give the rates they were set for?",
            "Achieved against target rate on the calibration windows, and the largest error of any layer over gain, with both "
            "tolerances.",
            "Points of achieved rate on the diagonal of the target rate; below, the largest layer error over gain under two "
            "tolerance lines.",
        ),
        "F03_BRANCHING_CURVES": Caption(
            "Branching over gain",
            f"b_time along tokens, b_depth along layers, b_tot their sum, a line for each target rate. {_BAND} The grey line at "
            "one marks no special state by itself.",
            "Rows of panels: b_time, b_depth, b_tot over gain; a column for each spike definition, one line a target rate.",
        ),
        "F04_NULL_DELTAB": Caption(
            "Excess over the surrogates",
            f"b minus its exact expectation under permutation, and under circular shifts, within layers. {_BAND} Zero means no "
            "more than density.",
            "Panels of delta b over gain, a column for each spike definition, one line a target rate, with a line at zero.",
        ),
        "F05_GSTAR_SELECTION": Caption(
            "The chosen gain g*",
            "What the rule looks at over gain, with g*, its interval and its status; b_tot below it where the rule looks at "
            "something else. A g* that is not bracketed is only the gain of the grid that fits the rule best.",
            "A panel for each definition and rate: what the rule looks at over gain, a star at g*, its interval shaded, the "
            "status above; b_tot in a second panel where it is something else.",
        ),
        "F06_GENERALIZATION_B": Caption(
            "The same gain on other text",
            "Data set B at g = 1 and at the g* of data set A, thresholds of data set A, paired by condition.",
            "Paired points of branching, excess and likelihood on data set B, g = 1 beside g*, for each condition.",
        ),
        "F07_ARC_MCQ": Caption(
            "The same gain on questions",
            "Accuracy on ARC questions at g = 1 and at g*, with intervals, chance, and the paired difference.",
            "Accuracy with intervals at g = 1 and g* for each condition, a line at chance, and the paired differences.",
        ),
        "F08_SPIKEDEF_ROBUST": Caption(
            "Both spike definitions side by side",
            f"b_tot and its excess with both definitions in one panel, a row for each target rate. {_BAND}",
            "Rows of panels by target rate: b_tot on the left, its excess on the right, two lines for the two definitions.",
        ),
        "F09_CHI_CURVES": Caption(
            "Susceptibility over gain",
            f"chi, the variance over the mean of the events a sequence, over g and over g - g*; the largest is ringed. {_BAND} A "
            "peak lies where sequences differ most.",
            "chi over gain and over the distance from g*, one line a target rate, the largest value of each ringed.",
        ),
        "F10_NULL_COMPARE": Caption(
            "Every surrogate beside the observed raster",
            "b_tot of the held-out rasters and of one draw of each surrogate. The margin swap keeps what each layer and each "
            "token holds: what remains above it, margins do not explain.",
            "Points of b_tot for the observed raster and each surrogate, by condition; a hollow one stands in from another gain.",
        ),
        "F11_ABLATIONS": Caption(
            "Where the gain acts",
            "The gain on the MLPs of all layers, of early, middle or late layers, and on attention, at g*.",
            "b_tot, its excess and chi for each intervention beside no intervention, by condition.",
        ),
    }
)

TABLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "T01_SUMMARY": "Every condition of the gain grid",
        "T02_GENERALIZATION": "Data set B at g = 1 and g*",
        "T03_ARC": "Questions at g = 1 and g*, paired",
        "T04_TAIL_FITS": "Tail fits of avalanche sizes and their likelihood ratios",
        "T05_CRACKLING_DIAGNOSTICS": "Crackling relation: fit, interval, gate",
        "T06_ABLATIONS": "The gain on attention and on bands of layers",
        "T07_REPLICATION_SUMMARY": "BASE beside INSTRUCT",
    }
)
