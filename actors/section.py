"""The base of every config section: unknown keys are errors, values are frozen, each field documents itself."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A typed part of the recipe. Sections live beside the pool they configure and import nothing heavy."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
