"""Tables of a recipe about asking models: filters, judges, evaluation, and what it costs."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, NonNegativeInt, PositiveInt, model_validator

from vila2cli.settings.asked import AskedSettings, ShownSettings
from vila2cli.settings.conditions import parse_condition, parse_number
from vila2cli.settings.kinds import (
    EngineBatch,
    EngineDtype,
    EngineName,
    ImageMatch,
    Language,
    MaxUnusable,
    Names,
    NewTokens,
    Settings,
    SomeNames,
    VariableName,
    WebAddress,
    one_is_a_list,
    setting,
)


class JudgeSettings(AskedSettings):
    """Comparing caption layers pair by pair."""

    engine: EngineName = "auto"
    dtype: EngineDtype = "auto"
    judges: Annotated[
        SomeNames,
        setting(
            "who judges: oracle (exact scene facts), model (a checkpoint), or NAME of a table [judges.NAME]",
            decides=False,
        ),
    ] = ("model",)
    protocol: Annotated[
        Literal["pair", "rubric", "sentences"],
        setting(
            "what is asked: which of two captions in both orders, marks from 1 to 5 for one caption, or "
            "which of its sentences the image bears out"
        ),
    ] = "pair"
    prompt: Annotated[
        str, setting("prompt id, empty for judge-pair-v1, judge-rubric-v1 or judge-sentences-v1")
    ] = ""
    num_samples: Annotated[PositiveInt, setting("images judged")] = 200
    max_new_tokens: NewTokens = 8
    num_bootstrap: Annotated[
        PositiveInt, setting("bootstrap resamples of the images for the 95% intervals", decides=False)
    ] = 1000
    answers: Annotated[
        str,
        setting(
            "file that keeps every answer, so that none is asked for twice; empty for answers.jsonl in --out",
            decides=False,
        ),
    ] = ""
    question: Annotated[str, setting("what people are asked by the page of --human", decides=False)] = (
        "Which caption describes the image better?"
    )
    baseline_round: Annotated[
        NonNegativeInt, setting("round whose captions are the other side; 0 is the alt-text")
    ] = 0


def _condition(text: str) -> str:
    try:
        return parse_condition(text).text
    except ValueError as error:
        shown = repr(text) if len(text) <= 200 else f"{text[:200]!r}..."
        raise ValueError(f"{shown}: {error}") from None


def _ranking(text: str) -> str:
    return parse_number(text).text if text.strip() else ""


class TopSettings(Settings):
    """The share of the samples that is best by a field."""

    field: Annotated[
        str,
        AfterValidator(_ranking),
        setting(
            "metadata by which the best are kept, as clip_similarity_vitl14, or a sum of it; empty for none"
        ),
    ] = ""
    share: Annotated[float, setting("share kept of those that filter.where lets pass", gt=0, le=1)] = 0.2
    per: Annotated[Literal["shard", "all"], setting("whether of each shard, or of all of them together")] = (
        "shard"
    )


class FilterSettings(ShownSettings):
    """Which captions and images are worth training on: what is scored, and where the lines are drawn."""

    engine: EngineName = "auto"
    dtype: EngineDtype = "auto"
    batch_size: EngineBatch = 128
    scores: Annotated[
        tuple[Literal["perplexity", "text-perplexity", "similarity"], ...],
        BeforeValidator(one_is_a_list),
        setting(
            "what is computed per caption; text-perplexity is without the image, similarity by CLIP/SigLIP"
        ),
    ] = ("perplexity",)
    captions: Annotated[SomeNames, setting("caption sources joined in this order and scored as one text")] = (
        "original",
        "recaption",
    )
    prompt: Annotated[str, setting("prompt id that the caption answers (POINTS section 3.2)")] = "points-v1"
    similarity_model: Annotated[str, setting("folder or hub id of a CLIP or SigLIP model")] = ""
    language: Annotated[Language, setting("language that captions must be in, empty for any")] = ""
    text_defects: Annotated[
        tuple[
            Literal["repetition", "refusal", "boilerplate", "reasoning", "wrong-language", "placeholder"], ...
        ],
        BeforeValidator(one_is_a_list),
        setting("what makes a caption not worth training on; placeholder: file names, 'stock photo', numbers"),
    ] = ("repetition", "refusal", "boilerplate", "reasoning", "wrong-language")
    min_words: Annotated[NonNegativeInt, setting("fewest words of a caption, 0 for no limit")] = 0
    max_words: Annotated[NonNegativeInt, setting("most words of a caption, 0 for no limit")] = 0
    min_similarity: Annotated[
        float, setting("lowest mean cosine of sentences and image, -1 for any", ge=-1, le=1)
    ] = -1.0
    min_sentence_similarity: Annotated[
        float, setting("lowest cosine of any one sentence and the image, -1 for any", ge=-1, le=1)
    ] = -1.0
    overlap: Annotated[
        ImageMatch, setting("how images of eval.tasks are found and dropped: as exact copies, or by their look")
    ] = "perceptual"
    duplicates: Annotated[
        ImageMatch,
        setting("how copies of an image are found; the best by rank_by is kept, of equals the first"),
    ] = "perceptual"
    max_distance: Annotated[
        NonNegativeInt,
        setting("signs of 195 in which the hashes of look-alikes may differ; 7 is fastest", le=32),
    ] = 24
    rank_by: Annotated[
        Literal["perplexity", "text-perplexity", "image-gain", "similarity"],
        setting("what the kept share is chosen by; image-gain is what the image takes off the text-perplexity"),
    ] = "perplexity"
    keep_share: Annotated[
        float, setting("share kept of what the other rules left (POINTS section 4.2: 0.2)", gt=0, le=1)
    ] = 0.2
    length_buckets: Annotated[
        tuple[PositiveInt, ...],
        BeforeValidator(one_is_a_list),
        setting("caption lengths in tokens at which a new bucket begins; the share is kept in each"),
    ] = ()
    where: Annotated[
        tuple[Annotated[str, AfterValidator(_condition)], ...],
        BeforeValidator(one_is_a_list),
        setting(
            "conditions on metadata, width, height, aspect and format, all of which must hold; with them every "
            "other rule is off unless it is set",
            if_set=True,
        ),
    ] = ()
    top: Annotated[TopSettings, setting("the best by a field of the metadata", if_set=True)] = TopSettings()
    max_reject_rate: MaxUnusable = 0.05

    @model_validator(mode="before")
    @classmethod
    def _by_metadata(cls, table: Any) -> Any:
        """Where pictures are chosen by their metadata, every other rule is off unless it is set."""
        top = table.get("top") if isinstance(table, dict) else None
        if not isinstance(table, dict) or not (
            table.get("where") or (isinstance(top, dict) and top.get("field"))
        ):
            return table
        off = {"scores": (), "text_defects": (), "overlap": "none", "duplicates": "none", "keep_share": 1.0}
        return {**off, **table}

    @property
    def needs_model(self) -> bool:
        """Whether a vision-language model is asked for any of the scores."""
        return bool({"perplexity", "text-perplexity"} & set(self.scores))

    @property
    def by_metadata(self) -> bool:
        """Whether pictures are chosen by metadata, if not by that alone."""
        return bool(self.where or self.top.field)

    @property
    def reads_captions(self) -> bool:
        """Whether a rule is about captions, so that a sample without one is no use."""
        rules = (self.scores, self.text_defects, self.language, self.min_words, self.max_words)
        return any(rules) or not self.by_metadata

    @property
    def decodes_pictures(self) -> bool:
        """Whether a rule or a model looks at pixels."""
        return not self.by_metadata or bool(self.scores) or "perceptual" in (self.overlap, self.duplicates)

    @property
    def needs_header_only(self) -> bool:
        """Whether each shard can be decided on by itself, from metadata and the headers of its pictures."""
        compares = self.overlap != "none" or self.duplicates != "none" or self.keep_share < 1
        per_shard = not self.top.field or self.top.per == "shard"
        return self.by_metadata and per_shard and not (compares or self.reads_captions)

    def scoring(self) -> dict[str, Any]:
        """The settings that decide the scores, beside the models; the others only decide what is kept."""
        names = ("scores", "captions", *(("prompt", *ShownSettings.model_fields) if self.needs_model else ()))
        scoring = {name: value for name, value in self.deciding().items() if name in names}
        if self.by_metadata:  # what is not met is not asked about
            scoring |= {"where": list(self.where), "top": self.top.field}
            scoring |= {"captions_needed": self.reads_captions, "pictures_decoded": self.decodes_pictures}
        return scoring


class EvalSettings(AskedSettings):
    """Scoring a checkpoint on task folders."""

    tasks: Annotated[Names, setting("task folders or globs of them")] = ()
    engine: EngineName = "auto"
    dtype: EngineDtype = "auto"
    batch_size: EngineBatch = 128
    max_new_tokens: NewTokens = 96
    num_shots: Annotated[
        NonNegativeInt, setting("solved samples shown before each question; VILA reports 0 and 4")
    ] = 0
    shots_dir: Annotated[
        str,
        setting("train or dev split that shots are drawn from: task folders, or shards, never those scored"),
    ] = ""
    num_bootstrap: Annotated[PositiveInt, setting("bootstrap resamples for the 95% intervals")] = 1000
    box_frame: Annotated[
        str,
        setting(
            "frame of plain numbers in answers that are boxes, such as xyxy-pixel, xyxy-1 or xyxy-1000; empty "
            "for the task's, auto to tell it from all answers",
            decides=False,
        ),
    ] = ""
    judge: Annotated[
        str,
        setting("NAME of the table [judges.NAME] that marks answers of MM-Vet and LLaVA-Bench", decides=False),
    ] = ""
    lmms_command: Annotated[
        str, setting("how lmms-eval is started, in an environment of its own", decides=False)
    ] = "lmms-eval"
    max_reject_rate: MaxUnusable = 0.0


class ApiSettings(Settings):
    """The server behind engine = "api": any that speaks OpenAI's chat completions."""

    base_url: Annotated[WebAddress, setting("where it answers, up to /v1", decides=False)] = (
        "http://127.0.0.1:8000/v1"
    )
    model: Annotated[str, setting("the model's name at the server, empty for that of --model")] = ""
    key_env: Annotated[
        VariableName,
        setting(
            "environment variable that holds the server's key; empty for OPENAI_API_KEY at api.openai.com and "
            "no key at any other",
            decides=False,
        ),
    ] = ""
    max_in_flight: Annotated[PositiveInt, setting("requests sent and not answered yet", decides=False)] = 64
    requests_per_minute: Annotated[
        NonNegativeInt, setting("most requests sent in a minute, 0 for no limit", decides=False)
    ] = 0
    timeout_s: Annotated[
        float, setting("seconds in which a whole answer must have come", decides=False, gt=0)
    ] = 300.0
    retries: Annotated[
        NonNegativeInt,
        setting("tries after a failed one, 1 to 30 s apart; 12 outlast four minutes", decides=False),
    ] = 12
    max_tokens_total: Annotated[
        NonNegativeInt,
        setting("tokens read and written after which a command stops, 0 for no limit", decides=False),
    ] = 0
    max_dollars: Annotated[
        float, setting("price after which a command stops, 0 for no limit", decides=False, ge=0)
    ] = 0.0
    dollars_per_million_read: Annotated[
        float, setting("price of a million prompt tokens in dollars", decides=False, ge=0)
    ] = 0.0
    dollars_per_million_written: Annotated[
        float, setting("price of a million generated tokens in dollars", decides=False, ge=0)
    ] = 0.0
    logprobs: Annotated[bool, setting("ask for log-probabilities; some servers refuse", decides=False)] = True
    structured: Annotated[
        Literal["json_schema", "json_object", "vllm", "none"],
        setting(
            "how the server is told of the JSON that a judge expects; vllm: in the words of `vllm serve`, "
            "so that no white space can fill the answer",
            decides=False,
        ),
    ] = "json_schema"
    image_format: Annotated[
        Literal["png", "jpeg"], setting("how images are sent: png is exact, jpeg (quality 95) smaller")
    ] = "png"


class JudgeModelSettings(AskedSettings):
    """One model that judges, by a name of its own."""

    model: Annotated[str, setting("folder, hub id, or the name that the server of its api table knows")]
    engine: EngineName = "api"
    dtype: EngineDtype = "auto"
    max_new_tokens: Annotated[
        NonNegativeInt, setting("longest generated text, in tokens; 0 for judge.max_new_tokens")
    ] = 0
    api: ApiSettings = ApiSettings()


class CostSettings(Settings):
    """What an hour costs, for the figures in reports."""

    dollars_per_hour: Annotated[float, setting("price of one device-hour in dollars", ge=0)] = 0.0
    device: Annotated[
        Literal["core-hours", "GPU-hours"],
        setting("unit of hours in reports, and of layers that do not say it"),
    ] = "core-hours"
