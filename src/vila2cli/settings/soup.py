"""The table of a recipe about averaging checkpoints."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, PositiveInt

from vila2cli.settings.kinds import Names, Settings, one_is_a_list, setting


class SoupSettings(Settings):
    """How checkpoints that were trained from the same one are averaged (POINTS section 3.3)."""

    method: Annotated[
        Literal["uniform", "weighted", "maximum", "greedy"],
        setting("which models are averaged: all, all by weights, the top ones, or those that do not harm"),
    ] = "greedy"
    weights: Annotated[
        tuple[Annotated[float, setting("share of a model", gt=0)], ...],
        BeforeValidator(one_is_a_list),
        setting("method weighted: share of each model in the order given, of any sum"),
    ] = ()
    top: Annotated[PositiveInt, setting("method maximum: how many of the best (p is not in the paper)")] = 3
    tasks: Annotated[
        Names, setting("task folders that maximum and greedy select on; never a split of eval.tasks")
    ] = ()
