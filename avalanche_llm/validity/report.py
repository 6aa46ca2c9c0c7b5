"""docs/validity.md: the goals, then a section a study, all from the results."""

from typing import Final

from avalanche_llm.validity import exponent_sections, sections
from avalanche_llm.validity.goals import goals
from avalanche_llm.validity.markup import table
from avalanche_llm.validity.results import Results

_HEAD: Final = """# Validity

Made by `make validate` from simulators of known truth (`avalanche_llm/simulate/`), which feed the functions that measure the
model. Every number is read from [validity.json](validity.json), none is typed by hand. A share is followed by its exact 95 %
binomial interval. The goal for coverage is met where no case has a binomial interval wholly outside 92 to 98 %, that for false
positives where none has one wholly above 5 %. An interval that is not given is counted apart. The last column says whether a
claim of the paper rests on the quantity; the others are shown beside it."""

_READING: Final = """## How to read the project's numbers

- State the number of sequences beside an interval. With 16 those of b, delta_b and chi are about right; gamma rarely has one.
- Where so few events are that few sequences hold a pair, no interval of b or delta_b is given: more text or a higher rate helps.
- Do not lean on the interval of chi where a few sequences hold most events: they are more often too low than too high.
- An excess over the permutation says that tokens or layers are not independent. It does not say that events make events.
- Compare with the margin swap before speaking of propagation, and remember that a drive which varies with depth passes it too.
- m near 1 is also what sequences of different rate give. gamma, or a power law preferred to the exponential, needs no dynamics.
"""


_YES: Final = {True: "yes", False: "**no**", None: "none to judge"}


def report(results: Results) -> str:
    """The whole page as Markdown."""
    answers = [[one.goal, one.found, _YES[one.met], "yes" if one.used else "no"] for one in goals(results)]
    parts = [
        _HEAD,
        table(["goal", "found", "met", "used by a claim"], answers),
        *sections.processes(),
        *sections.intervals(results.intervals, results.limits),
        *sections.nulls(results.nulls),
        *sections.surrogates(results.surrogates),
        *sections.verdicts(results.verdicts, results.intervals, results.growth),
        *exponent_sections.memory(results.memory),
        *exponent_sections.growth(results.growth, results.limits),
        *exponent_sections.tails(results.tails),
        _READING,
    ]
    return "\n\n".join(parts) + "\n"
