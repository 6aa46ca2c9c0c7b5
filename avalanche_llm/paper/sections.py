"""The sections of the paper as pages of words and facts; no number is typed by hand (spec 20)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from avalanche_llm.io.store import Upstream
from avalanche_llm.paper.claims import Claim
from avalanche_llm.paper.facts import Fact, Origin, Sheet
from avalanche_llm.paper.inputs import SELECTIONS, PaperInputs
from avalanche_llm.paper.prose import Filling, Page, Prose, bullets, equation, heading, joined, prose, table

SHORT: Final = {"SPIKE_ONE_SIDED_POS": "one-sided", "SPIKE_TWO_SIDED_ABS": "two-sided"}


def pages(inputs: PaperInputs, claims: Sequence[Claim], names: Mapping[str, str]) -> dict[str, Page]:
    """Every section by artifact name; `names` gives the file names."""
    made = {
        "paper_snapshot": _snapshot(inputs, claims),
        "paper_methods": _methods(inputs),
        "paper_results": _results(inputs, claims),
        "paper_limitations": _limitations(inputs, claims),
        "paper_provenance": _provenance(inputs),
        "paper_claims": _evidence(claims),
    }
    return {artifact: Page(names[artifact], tuple(blocks)) for artifact, blocks in made.items()}


def recorded(run: Upstream, *path: str) -> Fact:
    """A value of a run's record."""
    value: Any = run.record
    for key in path:
        value = value[key]
    return Fact(value, "", Origin.of_record(run), "", ".".join(path), exact=True)


def exports(inputs: PaperInputs) -> list[tuple[str, str]]:
    """(run id, path) of every table and figure that a reader is led to: CSV and PDF of each."""
    return [
        (run.run_id, path)
        for run in inputs.runs.values()
        for name, path in sorted(run.record["artifacts"].items())
        if name[0] in "TF" and name.endswith(("_csv", "_pdf"))
    ]


def _snapshot(inputs: PaperInputs, claims: Sequence[Claim]) -> list[Prose]:
    return [
        heading("Do activation events cascade? One measurement on one page", 1),
        _measured(inputs),
        heading("Verdicts"),
        prose(
            "supported: every cell satisfies the rule; mixed: some do; not supported: none does; undetermined: nothing to "
            "decide it with."
        ),
        table(["claim", "verdict"], [[claim.title, claim.verdict] for claim in claims]),
        heading("What was found"),
        bullets([joined([claim.title, ": ", claim.verdict, ". ", claim.sentence], "") for claim in claims]),
        heading("What this does not show"),
        prose(
            "Activation events that branch near one are avalanche-like at most. With independent sites b_tot is about twice "
            "the occupancy, "
            "so b_tot near one measures density first; a power law alone says little about its cause [@touboul2010]. No "
            "statement about "
            "a phase transition is made."
        ),
        heading("Tables and figures"),
        bullets([prose(f"[{path.rsplit('/', 1)[1]}](../../{run_id}/{path})") for run_id, path in exports(inputs)]),
    ]


def _measured(inputs: PaperInputs) -> Prose:
    grid = inputs.runs["PHASE2_GAIN_GRID"]
    rasters, text = inputs.runs["PHASE3_EXTRACT_RASTERS"], inputs.runs["PHASE6_GENERALIZE_B_METRICS"]
    return prose(
        "Model {model} ({role}; {layers} layers, {units} MLP units each; {device}, {dtype}). Gain grid on {windows} windows "
        "of {tokens} "
        "tokens of {data}; rasters on {held} other windows of it; generalisation on {n_b} windows of {b}.",
        model=recorded(grid, "model", "id"),
        role=recorded(grid, "model", "role"),
        layers=recorded(grid, "model", "n_layers"),
        units=recorded(grid, "model", "d_ff"),
        device=recorded(grid, "model", "device"),
        dtype=recorded(grid, "model", "dtype"),
        windows=recorded(grid, "dataset", "A_CALIBRATION", "n_windows"),
        tokens=recorded(grid, "dataset", "A_CALIBRATION", "seq_len_tokens"),
        data=recorded(grid, "dataset", "A_CALIBRATION", "id"),
        held=recorded(rasters, "dataset", "A_RASTERS", "n_windows"),
        n_b=recorded(text, "dataset", "B_EVAL", "n_windows"),
        b=recorded(text, "dataset", "B_EVAL", "id"),
    )


def _methods(inputs: PaperInputs) -> list[Prose]:
    return [
        heading("Methods", 1),
        _measured(inputs),
        heading("Activation events"),
        prose(
            "u is the input of an MLP's last projection, for a gated MLP the product of gate and up branch [@shazeer2020]. "
            "Mean and "
            "standard deviation of every unit come from the calibration slice at the baseline gain; an event is a standardised "
            "activation above the threshold of its layer. The threshold is an exact order statistic that gives every layer "
            "the same share "
            "of events at every gain. A few units and tokens carry activations orders of magnitude above the rest [@sun2024]: "
            "the profile of rates over layers is kept, and the share of the first token is reported."
        ),
        equation(
            "z = (u - mu) / (sigma + eps)",
            "event: v > tau, v = z (one-sided) or |z| (two-sided)",
            "A[layer, token] = events, X = A > 0",
        ),
        heading("Gain"),
        prose("The gain g multiplies what each MLP adds to the residual stream; no weight is changed."),
        equation("h' = h + attention(h) + g * mlp(h)"),
        heading("Branching"),
        prose(
            "Occupied neighbours one token later and one layer deeper, per occupied site, sequences pooled; avalanches are "
            "connected "
            "components in the sense of [@beggs2003]. The excess is taken over exact expectations under permutation and "
            "circular shift of "
            "tokens within layers, and over drawn swaps that keep all margins; intervals are bootstrap percentiles over "
            "sequences. The "
            "multistep regression of [@wilting2018] stands beside it."
        ),
        equation("b_time = sum X[l,t] X[l,t+1] / sum X", "b_depth = sum X[l,t] X[l+1,t] / sum X", "b_tot = b_time + b_depth"),
        heading("Selection of the gain"),
        prose("The selected gain is the one of the grid with b_tot nearest one on data set A; no task result enters."),
        heading("Tails, crackling, questions"),
        prose(
            "Discrete power law, exponential and log-normal are fitted on the same tail [@clauset2009] and compared by the "
            "ratio of "
            "[@vuong1989]; mean size over duration is fitted as a power [@sethna2001]. Questions follow the schema of "
            "[@clark2018]; the two "
            "gains are compared by question [@mcnemar1947]."
        ),
    ]


def _results(inputs: PaperInputs, claims: Sequence[Claim]) -> list[Prose]:
    blocks = [heading("Results", 1)]
    for claim in claims:
        blocks += [heading(claim.title), prose("Verdict: {verdict}. {sentence}", verdict=claim.verdict, sentence=claim.sentence)]
    return [
        *blocks,
        heading("Selected gains"),
        _rows(inputs.sheets[SELECTIONS], ("gstar", "gstar_ci_low", "gstar_ci_high", "b_tot", "distance", "status")),
        heading("Data set B"),
        _rows(inputs.sheets["T02_GENERALIZATION"], ("g_condition", "g", "b_tot", "delta_b_tot", "chi", "nll_mean", "ppl")),
        heading("Questions"),
        _rows(inputs.sheets["T03_ARC"], ("g_condition", "g", "n_questions", "accuracy", "opt_acc_cloze", "opt_mcnemar_p")),
    ]


def _rows(sheet: Sheet, columns: Sequence[str]) -> Prose:
    present = [column for column in columns if column in sheet.frame.columns]
    rows: list[list[Filling]] = [
        [
            SHORT[str(sheet.fact(place, "spike_def_id"))],
            sheet.fact(place, "target_rate"),
            *(sheet.fact(place, column) for column in present),
        ]
        for place in range(len(sheet))
    ]
    return table(["spikes", "rate", *present], rows)


def _limitations(inputs: PaperInputs, claims: Sequence[Claim]) -> list[Prose]:
    verdicts = {claim.claim_id: claim for claim in claims}
    summary = inputs.sheets["T01_SUMMARY"]
    lines = [
        prose(
            "Density. Occupancy over the grid is {low} to {high}; sites that were independent at that occupancy would "
            "already have b_tot of "
            "about twice as much.",
            low=summary.span("opt_occupancy")[0],
            high=summary.span("opt_occupancy")[1],
        ),
        prose("Dependence. Cells share windows, events and one model; k of n cells is a count and no test."),
        prose("Intervals are percentiles over few sequences and say nothing about other models or other texts."),
        prose(
            "Lattice. A token-by-layer lattice has few layers; components touch its border and exponents cannot be read off it."
        ),
        prose("Attention links distant tokens; neighbours on the lattice are not the only ones that could pass activity on."),
    ]
    if verdicts["crossing"].verdict != "supported":
        lines.append(joined(["Selection. ", verdicts["crossing"].sentence], ""))
    if verdicts["rates_held_out"].verdict != "supported":
        lines.append(joined(["Rates. Thresholds fit their own slice. ", verdicts["rates_held_out"].sentence], ""))
    if not inputs.twin:
        lines.append(verdicts["replication"].sentence)
    return [heading("Limitations", 1), bullets(lines)]


def _provenance(inputs: PaperInputs) -> list[Prose]:
    first = inputs.runs["PHASE1_CALIBRATE"]
    versions = [[name, recorded(first, "versions", name)] for name in sorted(first.record["versions"])]
    slices = [
        [role, *(recorded(run, "dataset", role, key) for key in ("id", "sha256"))]
        for run in inputs.runs.values()
        for role in run.record["dataset"]
        if "sha256" in run.record["dataset"][role]
    ]
    runs = [
        [
            recorded(run, "run_id"),
            recorded(run, "phase_id"),
            recorded(run, "model", "role"),
            recorded(run, "hashes", "code_version"),
            recorded(run, "hashes", "config_sha256"),
        ]
        for run in inputs.chain
    ]
    return [
        heading("Provenance", 1),
        heading("Runs"),
        table(["run", "phase", "role", "code", "config sha256"], runs),
        heading("Model"),
        bullets([joined([name, ": ", recorded(first, "model", name)], "") for name in sorted(first.record["model"])]),
        heading("Data"),
        table(["slice", "source", "sha256 of its tokens"], list({str(row[0]): row for row in slices}.values())),
        heading("Versions"),
        table(["what", "version"], versions),
        heading("Determinism"),
        prose(
            "Seed {seed}; strict: {strict}.",
            seed=recorded(first, "determinism", "seed"),
            strict=recorded(first, "determinism", "strict"),
        ),
    ]


def _evidence(claims: Sequence[Claim]) -> list[Prose]:
    blocks = [heading("Claims to evidence", 1)]
    for claim in claims:
        blocks += [
            heading(claim.title),
            prose("Rule: {rule}. Verdict: {verdict}.", rule=claim.rule, verdict=claim.verdict),
            claim.sentence,
            bullets([prose("[{place}](../../{run}/{place}), sha256 {sha}", **_place(origin)) for origin in claim.evidence]),
        ]
    return [block for block in blocks if str(block)]


def _place(origin: Origin) -> dict[str, Fact]:
    def named(value: str, column: str) -> Fact:
        return Fact(value, "", origin, "", column, exact=True)

    return {
        "place": named(origin.relative_path, "relative_path"),
        "run": named(origin.run_id, "run_id"),
        "sha": named(origin.sha256, "sha256"),
    }
