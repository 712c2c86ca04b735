"""The engine that a layer is written with: one for all of its shards, whoever writes them.

"auto" may be vLLM on one machine and transformers on the next. Their captions differ in the last
bits of a logit, so that a layer of both would be neither's.
"""

from collections.abc import Sequence

from vila2cli.engine import Engine, EngineSettings, choose_engine, open_engine
from vila2cli.engine.keys import api_key
from vila2cli.errors import RecipeError
from vila2cli.run.stopping import Stop
from vila2cli.settings import (
    ApiSettings,
    AskedSettings,
    FilterSettings,
    MachineSettings,
    RecaptionSettings,
    WritingSettings,
)
from vila2cli.shards import LayerWriter


def engine_settings(
    settings: WritingSettings | FilterSettings,
    api: ApiSettings,
    machine: MachineSettings,
    adapters: Sequence[str] = (),
    asked: AskedSettings | None = None,
) -> EngineSettings:
    """What an engine needs to know to be asked about one image at a time, with the key of its server.

    `asked` is for those who are not asked as their `settings` say.
    """
    return EngineSettings(
        dtype=settings.dtype,
        batch_size=settings.batch_size,
        max_images=1,
        adapters=tuple(adapters),
        requests_per_image=max(len(adapters), settings.n if isinstance(settings, RecaptionSettings) else 1),
        asked=asked or settings.asked(),
        api=api,
        api_key=api_key(api),
        machine=machine,
    )


def open_layer_engine(
    layers: Sequence[LayerWriter], kind: str, model: str, settings: EngineSettings, stop: Stop
) -> Engine:
    """Open the one engine of layers, which each layer.json names from then on.

    Raises RecipeError when a layer was begun with another one, before a model is loaded where that
    can be told, and ModelError as `open_engine` does.
    """
    begun = [(layer, name) for layer in layers if (name := layer.engine()) is not None]
    if begun:
        with stop.at_once():
            choice = choose_engine(kind, model, settings.adapters)
        for layer, name in begun:
            _check_same(layer, name, choice.kind, choice.reason)
    engine = open_engine(kind, model, settings, stop)
    # "auto" falls back when vLLM cannot load, and another worker may have been faster.
    for layer in layers:
        _check_same(layer, layer.note_engine(engine.name), engine.name, engine.notes[0])
    return engine


def _check_same(layer: LayerWriter, begun: str, mine: str, reason: str) -> None:
    if begun != mine:
        raise RecipeError(
            f"{layer.folder} was begun with the engine {begun}, and here it would go on with {mine} "
            f'({reason}); set engine = "{begun}" where that runs, or give another --out'
        )
