"""What every section of the settings is made of: its base class, and numbers within their bounds."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


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


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values. ValueError where one appears twice."""
    if len(set(values)) != len(values):
        raise ValueError(f"values must be distinct, found {list(values)}")
    return values


class Section(BaseModel):
    """Frozen, and no key that it does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
