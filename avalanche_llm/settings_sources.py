"""The sections of the settings that name what is measured: models with their module names, and data sets."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from avalanche_llm.settings_values import Count, ModuleName, Place, Section


class HookNames(Section):
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


class ModelChoice(Section):
    """A hub id or a local folder; `revision` is for a hub id, `hooks` for a family that the table does not hold."""

    hf_id: Place
    revision: Annotated[str, Field(pattern=r"^[\w./-]{1,200}$")] | None = None
    hooks: HookNames | None = None


class Models(Section):
    """The model of each role; None where a config measures one role alone."""

    INSTRUCT: ModelChoice | None
    BASE: ModelChoice | None


class TextData(Section):
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


class ArcData(Section):
    """The multiple-choice questions: the first n_questions in stored order (None: all), as plain text or as a chat turn."""

    hf_id: Place
    hf_config: str | None
    split: str
    prompt_template_id: Literal["ARC_MCQ_V1"]
    chat_template: bool
    n_questions: Count | None


class Datasets(Section):
    """One entry a data set role."""

    A: DataA
    B: DataB
    ARC_MCQ: ArcData
