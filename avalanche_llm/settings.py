"""The resolved config as frozen, validated values. A key that is not here is an error, so a typing mistake cannot pass."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from avalanche_llm.errors import ConfigError
from avalanche_llm.suggest import nearest

ModelRole = Literal["BASE", "INSTRUCT"]
GstarMethod = Literal["btot_near_one", "excess_peak", "mr_near_one"]
SpikeDef = Literal["SPIKE_ONE_SIDED_POS", "SPIKE_TWO_SIDED_ABS"]


def _no_flag(value: Any) -> Any:
    """yaml reads yes and on as true, which would count as 1."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


Number = Annotated[float, BeforeValidator(_no_flag)]
Whole = Annotated[int, BeforeValidator(_no_flag)]
Positive = Annotated[Number, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[Whole, Field(ge=1, lt=2**31)]
Draws = Annotated[Whole, Field(ge=1, le=1_000_000)]
ModuleName = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")]
Place = Annotated[str, Field(min_length=1, max_length=1000)]
"""A hub id or a path; a file system takes no name much longer."""


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError(f"values must be distinct, found {list(values)}")
    return values


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Project(_Section):
    """Constants of the project that every record carries."""

    project_id: str
    pack_version: str


class Paths(_Section):
    """Where runs go, relative to the working folder."""

    runs_dir: Place


class Run(_Section):
    """What the command line most often changes."""

    model_role: ModelRole
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,2})?)$")]
    dtype: Literal["bf16", "fp16", "fp32"]


class Pipeline(_Section):
    """Axes: seq_len_tokens and burn_in_tokens in tokens, batch_windows in windows a forward pass."""

    seq_len_tokens: Annotated[Whole, Field(ge=2, le=65535)]
    burn_in_tokens: Annotated[Whole, Field(ge=0, le=65535)]
    batch_windows: Count
    gstar_method: GstarMethod

    @model_validator(mode="after")
    def _leaves_tokens(self) -> "Pipeline":
        if self.burn_in_tokens > self.seq_len_tokens - 2:
            raise ValueError("burn_in_tokens must leave at least two tokens of a window")
        return self


class HookNames(_Section):
    """Module names of a model family (spec 12): `layers` below the decoder, the rest below one layer.

    `mlp` and `attn` name the modules whose output is added to the residual stream, `down` the MLP's last projection. `up`, `act`
    and, where the MLP is gated, `gate` serve the hook check; one name for gate and up is one projection, its first half the gate.
    """

    layers: ModuleName
    mlp: ModuleName
    attn: ModuleName
    down: ModuleName
    gate: ModuleName | None = None
    up: ModuleName | None = None
    act: ModuleName | None = None

    @model_validator(mode="after")
    def _checkable_or_not(self) -> "HookNames":
        if self.mlp == self.attn:
            raise ValueError(f"hooks: mlp and attn name one module, {self.mlp!r}; a gain could not be put on one of them")
        if (self.up is None) != (self.act is None) or (self.gate is not None and self.up is None):
            raise ValueError("hooks: up and act belong together, and gate needs both; name them or leave all three out")
        return self


class ModelChoice(_Section):
    """A hub id or a local folder; `revision` is for a hub id, `hooks` for a family that the table does not hold."""

    hf_id: Place
    revision: Annotated[str, Field(pattern=r"^[\w./-]{1,200}$")] | None = None
    hooks: HookNames | None = None


class Models(_Section):
    """The model of each role; None where a config measures one role alone."""

    INSTRUCT: ModelChoice | None
    BASE: ModelChoice | None


class TextData(_Section):
    """A text data set: hub id or local path, and how many windows its pool holds for each one that is drawn."""

    hf_id: Place
    hf_config: str | None
    split: str
    text_column: str
    window_pool_factor: Count


class DataA(TextData):
    """Calibration and rasters."""

    n_windows_calibration: Count
    n_windows_rasters: Count


class DataB(TextData):
    """Generalisation."""

    n_windows_eval: Count


class ArcData(_Section):
    """The multiple-choice questions: the first n_questions in stored order (None: all), as plain text or as a chat turn."""

    hf_id: Place
    hf_config: str | None
    split: str
    prompt_template_id: Literal["ARC_MCQ_V1"]
    chat_template: bool
    n_questions: Count | None


class Datasets(_Section):
    """One entry a data set role."""

    A: DataA
    B: DataB
    ARC_MCQ: ArcData


class Gains(_Section):
    """The grid rises and holds the baseline."""

    baseline: Positive
    grid: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=1000), AfterValidator(_distinct)]

    @model_validator(mode="after")
    def _ordered(self) -> "Gains":
        if list(self.grid) != sorted(self.grid):
            raise ValueError(f"grid must rise, found {list(self.grid)}")
        if self.baseline not in self.grid:
            raise ValueError(f"grid must contain the baseline gain {self.baseline:g}, found {list(self.grid)}")
        return self


class Events(_Section):
    """eps and tau0_baseline in units of sigma, rates in events per (unit, token)."""

    eps: Positive
    tau0_baseline: Positive
    spike_defs: Annotated[tuple[SpikeDef, ...], Field(min_length=1), AfterValidator(_distinct)]
    target_rates: Annotated[tuple[Annotated[Number, Field(gt=0, lt=1)], ...], Field(min_length=1), AfterValidator(_distinct)]
    rate_match_tol_abs: Positive
    rate_match_tol_rel: Positive
    rate_match_min_cal_samples: Count
    u_hook_match_tol_abs: Positive


class Statistics(_Section):
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


class Determinism(_Section):
    """The seed of everything random, whether a kernel without a deterministic version ends the run, what cuBLAS may use."""

    seed: Annotated[Whole, Field(ge=0, lt=2**32)]
    strict: bool
    cublas_workspace_config: Literal[":4096:8", ":16:8"]


class Budgets(_Section):
    """effective_tflops and memory_gib_max by device kind (cpu, cuda)."""

    gpu_hours_max: Positive
    effective_tflops: dict[Literal["cpu", "cuda"], Positive]
    memory_gib_max: dict[Literal["cpu", "cuda"], Positive]


class Settings(_Section):
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
        raise ConfigError("config: " + "; ".join(_complaints(error, values))) from error
    _ = settings.model
    return settings


def _complaints(error: ValidationError, values: Mapping[str, Any]) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False):
        place = ".".join(str(part) for part in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = "unknown key" + nearest(str(problem["loc"][-1]), _known_keys())
        elif problem["type"] != "missing":
            text += f", found {problem['input']!r}"
        if problem["type"] == "literal_error":
            text += nearest(str(problem["input"]), re.findall(r"'(\w+)'", problem["ctx"]["expected"]))
        lines.append(f"{place}: {text}")
    return lines


def _known_keys() -> list[str]:
    sections = [field.annotation for field in Settings.model_fields.values()]
    inner = [key for section in sections for key in getattr(section, "model_fields", {})]
    return [*Settings.model_fields, *inner]
