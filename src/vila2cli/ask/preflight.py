"""What can be told of a model before its weights are read: whether it can be asked, and on which devices."""

from vila2cli.ask.opening import engine_settings
from vila2cli.devices import Gpu, gpus, planned_gpus
from vila2cli.engine import EngineSettings, choose_engine
from vila2cli.engine.fitting import check_model, fitting
from vila2cli.engine.placing import Shape, plan_cores, plan_gpus
from vila2cli.engine.plans import plan_engines
from vila2cli.errors import ModelError
from vila2cli.model.checkpoint import resolve_model
from vila2cli.model.loading import outline
from vila2cli.settings import AskingStage
from vila2cli.settings.recipe import Recipe

ASKING: tuple[AskingStage, ...] = ("recaption", "filter", "judge", "eval")
"""The stages that ask the vision-language model."""


def devices() -> list[Gpu]:
    """The GPUs of this machine, or those that VILA2_PLAN_GPUS says to plan for."""
    planned = planned_gpus()
    return gpus() if planned is None else planned


def checked_inputs(recipe: Recipe, model: str) -> str:
    """Read a model's processor, config and the names of its weights, and compare what is made for it.

    Raises ModelError where it cannot be loaded or its inputs cannot be made right.
    """
    folder = resolve_model(model)
    chat = fitting(folder, recipe.recaption.asked())
    net = outline(folder)
    check_model(net, chat)
    name, processor = type(net).__name__, type(chat.processor).__name__
    if chat.takes_images:
        return f"{name} with {processor}: inputs are those of its own processor"
    if hasattr(net.config, "vision_config"):
        raise ModelError(
            f"{name} cannot be shown a picture: of its processor transformers finds the tokenizer alone "
            f"({processor}); add the processor_config.json or preprocessor_config.json of its family"
        )
    return f"{name} with {processor}, which takes no images"


def planned_for(recipe: Recipe, stage: AskingStage, model: str) -> str:
    """The engine and the plan of devices for a stage that asks a model; raises ModelError where none fits."""
    settings = recipe.recaption if stage == "recaption" else getattr(recipe, stage)
    if settings.engine == "api":
        return f"asks {recipe.api.base_url}"
    choice = choose_engine(settings.engine, model)
    plan = plan_engines(settings.engine, model, settings_of(recipe, stage), devices=devices())
    assert plan is not None, "only a server's model has no plan"
    return f"{choice.kind} ({choice.reason}): {plan.line()}"


def settings_of(recipe: Recipe, stage: AskingStage) -> EngineSettings:
    """What an engine of a stage is opened with, as far as its plan goes."""
    if stage == "recaption":
        return engine_settings(recipe.recaption, recipe.api, recipe.engine_of(stage))
    settings = getattr(recipe, stage)
    batch_size = getattr(settings, "batch_size", EngineSettings().batch_size)
    return EngineSettings(dtype=settings.dtype, batch_size=batch_size, machine=recipe.engine_of(stage))


def planned_for_shape(recipe: Recipe, shape: Shape, num_cores: int) -> str:
    """The plan for captioning with a model that is still to be trained, of this shape."""
    machine, found = recipe.engine_of("recaption"), devices()
    if not found:
        return plan_cores(machine, num_cores).line()
    kind = "hf" if recipe.recaption.engine == "hf" else "vllm"
    itemsize = 4 if recipe.base.dtype == "float32" else 2
    batch_size = recipe.recaption.batch_size
    return plan_gpus(shape, found, machine, kind=kind, batch_size=batch_size, itemsize=itemsize).line()
