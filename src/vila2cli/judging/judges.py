"""Who judges: the world's oracle, and models that are asked. Both are tasks of the ask loop."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from vila2cli.ask.fill import Dialogue
from vila2cli.ask.images import decode_images
from vila2cli.ask.model import AskedModel
from vila2cli.engine import EngineSettings
from vila2cli.errors import DataError, RecipeError
from vila2cli.image import Decode
from vila2cli.judging.pairing import Draw
from vila2cli.judging.protocols import Captions, Judged, asks_for_json, make_verdict, open_protocol, prompt_id
from vila2cli.score.caption import slot_balance
from vila2cli.score.scorer import Vocabulary
from vila2cli.score.verdict import oracle_outcome
from vila2cli.settings import JudgeModelSettings, MachineSettings
from vila2cli.settings.recipe import Recipe
from vila2cli.shards import ShardWriter
from vila2cli.shards.members import NO_IMAGE
from vila2cli.shards.sample import Annotation, Reject, Sample
from vila2cli.text.prompts import prompt_sha256
from vila2cli.world.scenes import VOCABULARY

LAYER = "judge"
ORACLE, MODEL = "oracle", "model"
_MIN_JSON_TOKENS = 32


class Judge(ABC):
    """One judge of drawn samples, whose verdicts are a layer of their own."""

    def __init__(self, name: str, draw: Draw, round: int | None) -> None:
        self.name, self.draw = name, draw
        self._blank = Annotation(layer=LAYER, kind="verdict", round=round)

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What decides its verdicts beside the captions."""

    @abstractmethod
    def prepare(self, sample: Sample, decode: Decode) -> tuple[Image.Image, ...]:
        """The images that it looks at."""

    @abstractmethod
    def talk(self, out: ShardWriter, sample: Sample, images: tuple[Image.Image, ...]) -> Dialogue:
        """Write the verdicts on a sample."""

    def wants(self, out: ShardWriter, sample: Sample) -> bool:
        """Whether to judge a sample: it was drawn, and has something to say in every layer."""
        captions = self.draw.captions_of(out.name, sample)
        if captions is None:
            out.skip(sample, "not-drawn")
            return False
        if not all(text.strip() for text in captions.values()):
            out.skip(sample, "no-caption")
            return False
        return True

    def captions_of(self, out: ShardWriter, sample: Sample) -> Captions:
        """The captions of a sample that it wants."""
        captions = self.draw.captions_of(out.name, sample)
        assert captions is not None, f"{sample.key!r} was not drawn"
        return captions

    def write(self, out: ShardWriter, sample: Sample, judged: Judged) -> None:
        """Write what was said of a sample."""
        scores = {"verdicts": [verdict.to_json() for verdict in judged.verdicts]}
        more = {"captions": dict(judged.captions)} if judged.captions else {}
        out.annotate(sample, replace(self._blank, scores={**scores, **more}))


class Oracle(Judge):
    """Exact verdicts where the sample has a scene of the world; elsewhere it cannot judge."""

    def protocol(self) -> dict[str, Any]:
        return {"rule": "slots-1"}

    def prepare(self, sample: Sample, decode: Decode) -> tuple[Image.Image, ...]:
        return ()

    def talk(self, out: ShardWriter, sample: Sample, images: tuple[Image.Image, ...]) -> Dialogue:
        self.write(out, sample, self._judge(sample, self.captions_of(out, sample)))
        yield from ()

    def _judge(self, sample: Sample, captions: Captions) -> Judged:
        pairs, words = self.draw.pairs, Vocabulary(**VOCABULARY)
        try:
            scene = sample.meta.get("scene", {})
            counts = {name: slot_balance(text, scene, words) for name, text in captions.items()}
        except DataError:
            unjudged = [make_verdict(captions, pair, ORACLE, "unjudged", reason="no-scene") for pair in pairs]
            return Judged(tuple(unjudged))
        outcomes = {pair: oracle_outcome(counts[pair[0]], counts[pair[1]]) for pair in pairs}
        return Judged(tuple(make_verdict(captions, pair, ORACLE, one) for pair, one in outcomes.items()))


class ModelJudge(Judge):
    """A model that says which captions are better, or what is wrong with them."""

    def __init__(
        self, name: str, settings: JudgeModelSettings, recipe: Recipe, draw: Draw, round: int | None
    ) -> None:
        super().__init__(name, draw, round)
        self._protocol, self._prompt_id = open_protocol(recipe), prompt_id(recipe)
        self._prompt_sha256 = prompt_sha256(self._prompt_id, recipe.prompts)
        max_new_tokens = settings.max_new_tokens or recipe.judge.max_new_tokens
        if asks_for_json(recipe) and max_new_tokens < _MIN_JSON_TOKENS:
            raise RecipeError(
                f"{self._prompt_id} asks for JSON, for which {max_new_tokens} tokens do not suffice; "
                "set judge.max_new_tokens=256"
            )
        self.asked = asked_judge(settings, max_new_tokens, recipe.engine_of("judge"))
        self.limits = recipe.data.limits()
        self._data = recipe.data
        self._blank = replace(
            self._blank,
            model=self.asked.name,
            model_sha256=self.asked.model_sha256,
            prompt_id=self._prompt_id,
            prompt_sha256=self._prompt_sha256,
            sampling=self.asked.sampling(),
        )

    def protocol(self) -> dict[str, Any]:
        return {
            **self.asked.inputs(),
            "temperature": 0.0,
            **self.limits,
            "prompt_id": self._prompt_id,
            "prompt_sha256": self._prompt_sha256,
            **({} if self._protocol.name == "pair" else {"protocol": self._protocol.name}),
        }

    def wants(self, out: ShardWriter, sample: Sample) -> bool:
        """Whether to judge a sample: there is something to look at, too."""
        if not super().wants(out, sample):
            return False
        if not sample.images:
            out.reject(Reject(out.name, sample.key, NO_IMAGE, "the sample has no image to judge by"))
        return bool(sample.images)

    def prepare(self, sample: Sample, decode: Decode) -> tuple[Image.Image, ...]:
        return decode_images(sample, decode, max_pixels=self._data.max_pixels, draft=self._data.draft)

    def talk(self, out: ShardWriter, sample: Sample, images: tuple[Image.Image, ...]) -> Dialogue:
        captions, pairs = self.captions_of(out, sample), self.draw.pairs
        blank = self.asked.request(images=images, image_sha256s=[sample.image_sha256])
        requests = self._protocol.requests(blank, captions, pairs)
        results = (yield requests) if requests else ()
        self.write(out, sample, self._protocol.read(self.name, captions, pairs, results))


def asked_judge(settings: JudgeModelSettings, max_new_tokens: int, machine: MachineSettings) -> AskedModel:
    """The model of a judge, of which what one question costs must not end the others."""
    engine = EngineSettings(
        dtype=settings.dtype, api=settings.api, asked=settings.asked(), fails_alone=True, machine=machine
    )
    return AskedModel.of(settings.model, settings.engine, engine, max_new_tokens=max_new_tokens)


def judging_models(recipe: Recipe, model: str | Path | None) -> dict[str, JudgeModelSettings]:
    """The models that judge, by name; raises RecipeError for a judge that nobody is."""
    models = {}
    for name in recipe.judge.judges:
        if name == ORACLE:
            continue
        if name == MODEL and model is not None:
            settings = recipe.judge
            models[name] = JudgeModelSettings(
                model=str(model),
                engine=settings.engine,
                dtype=settings.dtype,
                api=recipe.api,
                **settings.asked().model_dump(),
            )
        elif name == MODEL:
            raise RecipeError(
                'the judge "model" needs a checkpoint: give --model; in the embedded world there is also '
                'judge.judges=["oracle"]'
            )
        elif name in recipe.judges:
            models[name] = recipe.judges[name]
        else:
            known = ", ".join([ORACLE, MODEL, *recipe.judges])
            raise RecipeError(
                f"judge.judges names {name!r}, which is no judge; known are {known}, or add [judges.{name}]"
            )
    if len(set(recipe.judge.judges)) < len(recipe.judge.judges):
        raise RecipeError(f"judge.judges names a judge twice: {list(recipe.judge.judges)}")
    return models


def open_judges(
    recipe: Recipe, models: Mapping[str, JudgeModelSettings], draw: Draw, round: int | None
) -> list[Judge]:
    """The judges of a recipe, of which those in `models` are asked; no model is loaded yet."""
    return [
        ModelJudge(name, models[name], recipe, draw, round) if name in models else Oracle(name, draw, round)
        for name in recipe.judge.judges
    ]
