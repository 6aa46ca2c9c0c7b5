"""The resolved config as frozen, validated values. A key that is not here is an error, so a typing mistake cannot pass."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, ValidationError, model_validator

from avalanche_llm.errors import ConfigError
from avalanche_llm.settings_sources import Datasets, ModelChoice, Models
from avalanche_llm.settings_values import Count, Draws, Number, Place, Positive, Section, Whole, distinct
from avalanche_llm.suggest import nearest

ModelRole = Literal["BASE", "INSTRUCT"]
GstarMethod = Literal["btot_near_one", "excess_peak", "mr_near_one"]
SpikeDef = Literal["SPIKE_ONE_SIDED_POS", "SPIKE_TWO_SIDED_ABS"]


class Project(Section):
    """Constants of the project that every record carries."""

    project_id: str
    pack_version: str


class Paths(Section):
    """Where runs go, relative to the working folder."""

    runs_dir: Place


class Run(Section):
    """What the command line most often changes."""

    model_role: ModelRole
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,2})?)$")]
    dtype: Literal["bf16", "fp16", "fp32"]


class Pipeline(Section):
    """Axes: seq_len_tokens and burn_in_tokens in tokens, batch_windows in windows a forward pass."""

    seq_len_tokens: Annotated[Whole, Field(ge=2, le=65535)]
    burn_in_tokens: Annotated[Whole, Field(ge=0, le=65535)]
    batch_windows: Count
    gstar_method: GstarMethod

    @model_validator(mode="after")
    def _leaves_tokens(self) -> "Pipeline":
        if self.burn_in_tokens > self.seq_len_tokens - 2:
            of = f"found {self.burn_in_tokens} of {self.seq_len_tokens}"
            raise ValueError(f"burn_in_tokens must leave at least two tokens of a window, {of}")
        return self


class Gains(Section):
    """The grid rises and holds the baseline."""

    baseline: Positive
    grid: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=1000), AfterValidator(distinct)]

    @model_validator(mode="after")
    def _ordered(self) -> "Gains":
        if list(self.grid) != sorted(self.grid):
            raise ValueError(f"grid must rise, found {list(self.grid)}")
        if self.baseline not in self.grid:
            raise ValueError(f"grid must contain the baseline gain {self.baseline:g}, found {list(self.grid)}")
        return self


class Events(Section):
    """eps and tau0_baseline in units of sigma, rates in events per (unit, token)."""

    eps: Positive
    tau0_baseline: Positive
    spike_defs: Annotated[tuple[SpikeDef, ...], Field(min_length=1), AfterValidator(distinct)]
    target_rates: Annotated[tuple[Annotated[Number, Field(gt=0, lt=1)], ...], Field(min_length=1), AfterValidator(distinct)]
    rate_match_tol_abs: Positive
    rate_match_tol_rel: Positive
    rate_match_min_cal_samples: Count
    u_hook_match_tol_abs: Positive


class Statistics(Section):
    """Resampling, nulls and the limits of the fits (spec 09)."""

    bootstrap_reps: Draws
    bootstrap_seed: Annotated[Whole, Field(ge=0, lt=2**32)]
    null_draws: Draws
    cc_max_components_per_seq: Count
    chi_eps: Positive
    crackling_min_points: Annotated[Whole, Field(ge=2)]
    crackling_d_range_min: Count
    crackling_d_range_max: Count
    ci_width_max: Positive
    signature_alignment_g_diff_max: Positive
    tail_xmin_percentile: Annotated[Number, Field(ge=0, lt=1)]
    tail_min_samples: Count


class Determinism(Section):
    """The seed of everything random, whether a kernel without a deterministic version ends the run, what cuBLAS may use."""

    seed: Annotated[Whole, Field(ge=0, lt=2**32)]
    strict: bool
    cublas_workspace_config: Literal[":4096:8", ":16:8"]


class Throughput(Section):
    """FLOPs a second of forward passes, in 10^12; `measured`: by a short matrix product where the estimate is made."""

    cpu: Positive | Literal["measured"]
    cuda: Positive


class Memory(Section):
    """GiB by kind of device."""

    cpu: Positive
    cuda: Positive


class Budgets(Section):
    """What a phase may take, and how fast and how large the device is."""

    gpu_hours_max: Positive
    effective_tflops: Throughput
    memory_gib_max: Memory


class Settings(Section):
    """The whole config, one attribute a section."""

    project: Project
    paths: Paths
    run: Run
    pipeline: Pipeline
    models: Models
    datasets: Datasets
    gains: Gains
    events: Events
    statistics: Statistics
    determinism: Determinism
    budgets: Budgets

    @property
    def model(self) -> ModelChoice:
        """The model of this run's role; ConfigError when the config names none for it."""
        choice: ModelChoice | None = getattr(self.models, self.run.model_role)
        if choice is None:
            raise ConfigError(
                f"models.{self.run.model_role} is empty in this config: name a model there or use the other --model_role"
            )
        return choice


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Validate the resolved config. Raises ConfigError, one line, naming each key that is wrong and what it may be."""
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError("config: " + "; ".join(_complaints(error))) from error
    _ = settings.model
    return settings


def _complaints(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        parts, kind, found = [str(part) for part in problem["loc"]], problem["type"], problem["input"]
        text = problem["msg"].removeprefix("Value error, ")
        if kind == "extra_forbidden":
            yield f"{'.'.join(parts)}: unknown key{nearest(parts[-1], _known_keys())}"
            continue
        if kind != "missing" and not (kind == "value_error" and (", found " in text or isinstance(found, dict))):
            text += f", found {found!r}"
        if kind == "literal_error":
            text += nearest(str(found), re.findall(r"'(\w+)'", problem["ctx"]["expected"]))
        # a part with a bracket is pydantic's name of the member of a union that it tried, or of a mapping's key
        yield f"{'.'.join(part for part in parts if '[' not in part)}: {text}"


def _known_keys(section: type[Section] = Settings) -> Iterator[str]:
    """Every key of a section and of those below it."""
    for name, field in section.model_fields.items():
        yield name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from _known_keys(kind)
