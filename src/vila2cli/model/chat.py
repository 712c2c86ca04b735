"""Turns and images to token ids: one rendering for training and for every engine.

What a model is given equals what its processor gives for the same conversation (`model.reference` sees to it).
The label mask is known while rendering, because every assistant turn is rendered as the text that
follows its own generation prompt; nothing is searched for in text or ids afterwards.

Shapes: N images of the batch, C colour channels, H x W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise, takewhile
from threading import RLock
from typing import Any

from PIL import Image

from vila2cli.errors import DataError, ModelError, UnaskableError
from vila2cli.image import Size
from vila2cli.model.control import Controls
from vila2cli.model.parts import IGNORE_INDEX as IGNORE_INDEX
from vila2cli.model.parts import Rendered, split, with_texts
from vila2cli.model.parts import collate as collate
from vila2cli.model.pictures import Nested, Pictures
from vila2cli.model.ready import join_ready
from vila2cli.model.reference import check
from vila2cli.model.rendering import Rendering, Span
from vila2cli.model.rendering import turn_parts as turn_parts
from vila2cli.model.templates import BY_PROCESSOR, check_arguments, chosen_template
from vila2cli.shards.sample import Turn
from vila2cli.text.reasoning import is_mark, opens_reasoning
from vila2cli.text.stops import stopped_at

_MAX_PROMPTS = 256
_QUESTION, _ANSWER = "A question.", "An answer."


class Chat:
    """A processor's chat template, tokenizer and image processor behind one interface.

    The processor of a language model is its tokenizer; such a chat has no place for images. `arguments` go to
    the template by name; raises ModelError for one that it does not use. `by_text` says whether images are put
    into the text rather than into its ids, because their ends join its words.
    """

    def __init__(self, processor: Any, arguments: Mapping[str, Any] | None = None) -> None:
        self.processor = processor
        self.arguments = dict(arguments or {})
        self.tokenizer = getattr(processor, "tokenizer", processor)
        template = BY_PROCESSOR.get(type(processor).__name__)
        check_arguments(chosen_template(processor), self.arguments)
        self.pictures = Pictures(processor)
        self.image_token, self.image_token_id = self.pictures.place, self.pictures.feature_id
        self.takes_images = bool(self.image_token)
        self.template = None if getattr(processor, "chat_template", None) else template
        self.rendering = Rendering(processor, self.template, takes_images=self.takes_images)
        self.rendering.arguments = self.arguments
        self._prompts: dict[tuple[tuple[Turn, ...], int, bool], Rendered] = {}  # most prompts are one of a few
        self._outlines: dict[Any, Any] = {}
        self._opened = ""  # the mark of reasoning that the template ends every prompt with
        self._is_checked = False
        self._checking = RLock()  # threads that decode pictures come first where nobody did
        self.by_text = False
        self.whole = False  # whether the processor lays out every prompt with pictures itself, one at a time
        self.whole_texts = False  # whether it lays out those without pictures, too
        self.most_images: int | None = None  # of one request, None for any number
        self.token_types: dict[str, dict[int, int]] = {}
        self._read_template()

    @property
    def controls(self) -> Controls:
        return self.rendering.controls

    def check(self, name: str = "") -> None:
        """Compare what is made here with what the processor makes, and settle how it is made; once.

        Two pictures and a few words are rendered. Raises ModelError, which tells the `name` of the model or
        of its processor, where the two cannot be made equal.
        """
        with self._checking:
            if self._is_checked:
                return
            self._is_checked = True  # what is compared is made by the methods that call this one
            try:
                check(self, name or type(self.processor).__name__)
            except BaseException:
                self._is_checked = False
                raise
            self._prompts.clear()

    def prompt_ids(
        self, turns: Sequence[Turn], images: Sequence[Image.Image], *, expand: bool = True
    ) -> list[int]:
        """The ids up to where the model answers.

        With `expand` every image stands as the run of ids that the model puts its features on;
        without, as one placeholder id (what vLLM takes).
        """
        self._check_for(images)
        key = (tuple(turns), len(images), self.whole_texts)
        rendered = self._prompts.get(key)
        if rendered is None:
            if len(self._prompts) >= _MAX_PROMPTS:
                self._prompts.clear()
            rendered = self._prompts[key] = self._kept_apart(self._prompt, turns, len(images))
        return [token for ids, _ in self._filled(rendered, images, expand=expand) for token in ids]

    def reply(self, ids: Sequence[int], stops: Sequence[str] = ()) -> str:
        """Generated ids as text without special tokens, but with every mark of reasoning.

        Where the template opens the reasoning itself, at the prompt's end, the text begins with that mark. The
        one of `stops` that is complete first is left out, and what follows it.
        """
        text = self.generated(ids)
        return f"{self._opened}{text[: stopped_at(text, stops)]}".strip()

    def generated(self, ids: Sequence[int]) -> str:
        """Generated ids as text, as `reply` has them, before anything is cut or stripped."""
        special, marks = self._special_ids
        if marks.isdisjoint(ids):
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        kept = [token for token in ids if token in marks or token not in special]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False))

    def check_system(self, system: str) -> None:
        """Raise UnaskableError where the template refuses a system prompt, or leaves it out."""
        turns = [Turn("system", system), Turn("user", _QUESTION)]
        text = self.rendering.tried(turns, answer=True)
        if text is None or self.controls.inert(system).strip() not in text:
            what = "refuses" if text is None else "leaves out"
            raise UnaskableError(f"the model's chat template {what} a system prompt: set none (system)")

    @cached_property
    def _special_ids(self) -> tuple[frozenset[int], frozenset[int]]:
        """The ids of special tokens, and those of them that mark reasoning, as they do in some models."""
        known = getattr(self.tokenizer, "added_tokens_decoder", {})
        special = {int(token): str(added) for token, added in known.items() if added.special}
        return frozenset(special), frozenset(token for token, text in special.items() if is_mark(text))

    def scored_ids(
        self, turns: Sequence[Turn], images: Sequence[Image.Image], text: str, *, expand: bool = True
    ) -> tuple[list[int], int]:
        """The ids of turns as they are asked and an answer as it is trained, and how many are the answer's.

        The answer's end token, and what follows it, is left out. Raises DataError for an answer without
        tokens, or whose text cannot be told from control tokens.
        """
        self._check_for(images)
        if not text.strip():
            raise DataError("there is no text to score")
        rendered = self._kept_apart(self._scored, [*turns, Turn("assistant", text)], len(images))
        parts = self._filled(rendered, images, expand=expand)
        last = max(i for i, (_, is_answer) in enumerate(parts) if is_answer)
        answer = list(takewhile(lambda token: token not in self.end_ids, parts[last][0]))
        num_begun = next((i for i, token in enumerate(answer) if token not in self.controls.ids), len(answer))
        if num_begun == len(answer):
            raise DataError("there is no text to score")
        return [token for ids, _ in parts[:last] for token in ids] + answer, len(answer) - num_begun

    def train_ids(self, turns: Sequence[Turn], images: Sequence[Image.Image]) -> tuple[list[int], list[int]]:
        """The ids of a whole conversation and its labels, -100 where nothing is trained.

        Trained are the assistants' turns up to and with their end token; image ids never. Where the
        template ends no turn, the tokenizer's end token does. Raises DataError when no token would be
        trained, ModelError when nothing at all ends an answer.
        """
        if not self.end_ids:
            raise ModelError(
                "neither the chat template nor the tokenizer has a token that ends an answer, so a model "
                "trained with them would never stop; set eos_token in tokenizer_config.json"
            )
        self._check_for(images)
        rendered = self._kept_apart(self._conversation, turns, len(images))
        ids, labels = list[int](), list[int]()
        for part, is_answer in self._filled(rendered, images, expand=True):
            ids += part
            labels += self._answer_labels(part) if is_answer else [IGNORE_INDEX] * len(part)
        if all(label == IGNORE_INDEX for label in labels):
            raise DataError("no token of the sample would be trained: it has no assistant turn with text")
        return ids, labels

    def token_inputs(self, ids: Sequence[int], start: int | None = None) -> dict[str, list[int]]:
        """What the model is told of each token beside its id, {} for nothing; it is padded with 0.

        `start` is where an answer that is trained or scored begins, which some models must not see whole.
        """
        inputs = {name: [types.get(token, 0) for token in ids] for name, types in self.token_types.items()}
        if self.template is not None and start is not None and "token_type_ids" in inputs:
            inputs["token_type_ids"][start:] = [1] * (len(ids) - start)  # PaliGemma's suffix
        return inputs

    def pixel_inputs(self, images: Nested) -> dict[str, Any]:
        """The model's image tensors for the images of each sample of a batch, {} for none.

        They are named and shaped as the class wants them, of most `pixel_values` of N x C x H x W.
        """
        if not any(images):
            return {}
        self.check()
        if self.whole:
            raise ModelError(
                f"{type(self.processor).__name__} lays out every prompt with its pictures, so its model can be "
                "asked but not trained"
            )
        return join_ready(images, self.pictures) or self.pictures.tensors(images)

    def made(self, size: Size) -> Size | None:
        """The size to which the image processor scales an image, None where it is open or left as it is."""
        if self.takes_images:
            self.check()
        return self.pictures.made(size)

    def whole_inputs(
        self, turns: Sequence[Turn], images: Sequence[Image.Image], answer: str | None = None
    ) -> dict[str, Any]:
        """All that the model is given of one request where the processor has to lay it out, B = 1.

        With an `answer` it ends where `scored_ids` do. Raises DataError.
        """
        if answer is None:
            return self._laid_out(self._kept_apart(self._prompt, turns, len(images)).text, images)
        rendered = self._kept_apart(self._scored, [*turns, Turn("assistant", answer)], len(images))
        start, stop = rendered.spans[-1]
        tokens = self.tokenizer.convert_ids_to_tokens(self.end_ids)
        ends = [at for token in tokens if (at := rendered.text.find(token, start, stop)) >= 0]
        made = self._laid_out(rendered.text[: min(ends, default=stop)], images)
        if "token_type_ids" in made:
            raise DataError("an answer cannot be scored: what the model may see of it is not known")
        return made

    def _laid_out(self, text: str, images: Sequence[Image.Image]) -> dict[str, Any]:
        """What the processor makes of rendered text and as many of the images as have their places in it."""
        return self.pictures.laid_out(text, images[: text.count(self.image_token)], adds=self._adds(text))

    def _check_for(self, images: Sequence[Image.Image]) -> None:
        if images and self.takes_images:
            self.check()
            if self.most_images is not None and len(images) > self.most_images:
                raise DataError(f"the model takes {self.most_images} image in a request, not {len(images)}")

    def _read_template(self) -> None:
        """See what the template writes by itself: which tokens steer, and what ends an answer.

        `end_ids` are all tokens that do: the first one that the template writes after an answer, be it only
        before the next question, and the tokenizer's own.
        """
        asked, answered = Turn("user", _QUESTION), Turn("assistant", _ANSWER)
        tried = self.rendering.tried
        whole = tried([asked, answered], answer=False)
        longer = tried([asked, answered, asked], answer=False)
        written = [whole, longer, tried([asked], answer=True)]
        self._opened = opens_reasoning(written[2] or "")
        written.append(tried([Turn("system", "Rules."), asked], answer=True))
        if self.takes_images:
            written.append(tried([asked], answer=True, num_images=1))
        self.rendering.controls = Controls(self.processor, self.tokenizer, filter(None, written))
        last = self._controls_after_answer(whole or "")
        next_ones = self._controls_after_answer((longer or "").rpartition(_QUESTION)[0])
        eos = self.tokenizer.eos_token_id
        ends = {*last[:1], *(next_ones[:1] if not last else ()), *(() if eos is None else (int(eos),))}
        self.end_ids = tuple(sorted(ends))
        if whole and _ANSWER in whole and not last and eos is not None:
            self.rendering.appended = str(self.tokenizer.eos_token)

    def _controls_after_answer(self, text: str) -> tuple[int, ...]:
        after = text.rpartition(_ANSWER)[2] if _ANSWER in text else ""
        ids = self.tokenizer(after, add_special_tokens=False)["input_ids"] if after else ()
        return self.controls.among(ids)

    def _kept_apart(
        self, cut: Callable[[Sequence[Turn], int], Rendered], turns: Sequence[Turn], num_images: int
    ) -> Rendered:
        """Rendered turns, with the control tokens that they have with plain text in them.

        Raises DataError where a text brings others in however it is written, or swallows one.
        """
        plain = [with_texts(turn, lambda text: "word" if text.strip() else text) for turn in turns]
        key = (cut.__name__, tuple(plain), num_images, self.whole_texts)
        if key not in self._outlines:
            if len(self._outlines) >= _MAX_PROMPTS:
                self._outlines.clear()
            self._outlines[key] = self._outline(cut(plain, num_images))
        firm = self.controls.firm
        for make in (str, firm, lambda text: f" {firm(text)} "):
            rendered = cut([with_texts(turn, make) for turn in turns], num_images)
            if self._outline(rendered) == self._outlines[key]:
                return rendered
        raise DataError("its text cannot be told from the chat template's own tokens")

    def _outline(self, rendered: Rendered) -> list[list[tuple[int, ...]]]:
        """The control tokens around and between the images of each part."""
        return [[self.controls.among(ids) for ids in pieces] for pieces, _ in rendered.parts]

    def _prompt(self, turns: Sequence[Turn], num_images: int) -> Rendered:
        return self._cut(self.rendering.prompt(turns, num_images), [])

    def _conversation(self, turns: Sequence[Turn], num_images: int) -> Rendered:
        return self._cut(*self.rendering.conversation(turns, num_images))

    def _scored(self, turns: Sequence[Turn], num_images: int) -> Rendered:
        text, spans = self.rendering.conversation(turns, num_images, ends_from=len(turns) - 1)
        return self._cut(text, spans[-1:])

    def _cut(self, text: str, spans: list[Span]) -> Rendered:
        places = {self.pictures.place_id} if self.takes_images else set()
        parts = [(split(ids, places), is_answer) for ids, is_answer in self._parts(text, spans)]
        return Rendered(text, spans, parts)

    def _parts(
        self, text: str, spans: Sequence[Span], images: Sequence[Image.Image] = ()
    ) -> list[tuple[list[int], bool]]:
        """The ids of a text, cut where each answer begins and ends; `images` are those to be laid out in it.

        They are those of the whole text, unless one of them stands on both sides of a cut: the model is asked
        with the text before it as it is, so that is what it is trained with.
        """
        ids = self._encode(text, images=images)
        edges = [0, *(edge for span in spans for edge in span), len(text)]
        cuts = [0]
        for edge in edges[1:-1]:
            before = self._encode(text[:edge], images=images) if edge < len(text) else ids
            if ids[: len(before)] != before:
                cuts = []
                break
            cuts.append(len(before))
        if cuts:
            parts = [ids[start:stop] for start, stop in pairwise([*cuts, len(ids)])]
        elif images:
            raise DataError("its answer cannot be told from the tokens around it")
        else:
            parts = [self._encode(text[start:stop], start) for start, stop in pairwise(edges)]
        return [(part, i % 2 == 1) for i, part in enumerate(parts)]

    def _encode(self, text: str, start: int = 0, images: Sequence[Image.Image] = ()) -> list[int]:
        """The ids of a text that stands at `start` of another, with what the processor has put before texts."""
        begins = self.whole_texts and text and not start
        if images if self.image_token in text else begins:
            return [int(token) for token in self._laid_out(text, images)["input_ids"][0]]
        adds = self.takes_images and not start and self._adds(text)
        return list(self.tokenizer(text, add_special_tokens=adds)["input_ids"]) if text or adds else []

    def _adds(self, text: str) -> bool:
        """Whether the tokenizer begins this text with a token, as apply_chat_template has it."""
        bos = self.tokenizer.bos_token
        return self.pictures.adds_special_tokens and not (bos is not None and text.startswith(bos))

    def _filled(
        self, rendered: Rendered, images: Sequence[Image.Image], *, expand: bool
    ) -> list[tuple[list[int], bool]]:
        """The ids of each part with the images in their places."""
        if self.whole and images and expand:
            return self._parts(rendered.text, rendered.spans, images)
        if self.by_text and images and expand:
            return self._parts(*self._with_images(rendered, images))
        remaining, number = list(images), len(images)
        parts = [
            (self._joined(pieces, remaining, number, expand=expand), is_answer)
            for pieces, is_answer in rendered.parts
        ]
        if remaining:
            raise DataError(f"{len(remaining)} images of the sample have no place in its turns")
        return parts

    def _with_images(self, rendered: Rendered, images: Sequence[Image.Image]) -> tuple[str, list[Span]]:
        """A text with the images written into it, and where its answers stand then."""
        pieces = rendered.text.split(self.image_token)
        if len(pieces) != len(images) + 1:
            raise DataError(f"the turns have {len(pieces) - 1} places for {len(images)} images")
        text, at = pieces[0], len(pieces[0])
        grown: list[tuple[int, int]] = []  # places in the text as rendered, and by how much it grows there
        for image, piece in zip(images, pieces[1:], strict=True):
            own = self.pictures.text(image, len(images)) or self.image_token
            grown.append((at, len(own) - len(self.image_token)))
            at += len(self.image_token) + len(piece)
            text += own + piece

        def moved(edge: int) -> int:
            return edge + sum(more for place, more in grown if place < edge)

        return text, [(moved(start), moved(stop)) for start, stop in rendered.spans]

    def _joined(
        self, pieces: list[list[int]], images: list[Image.Image], number: int, *, expand: bool
    ) -> list[int]:
        """The ids of a part, taking one image off `images` for every place between its pieces."""
        ids = list(pieces[0])
        for piece in pieces[1:]:
            if not images:
                raise DataError("the chat template has places for more images than there are")
            image = images.pop(0)
            ids += self.pictures.ids(image, number) if expand else [self.pictures.place_id]
            ids += piece
        return ids

    def _answer_labels(self, ids: list[int]) -> list[int]:
        labels = [IGNORE_INDEX if token == self.image_token_id else token for token in ids]
        stop = max((i + 1 for i, token in enumerate(ids) if token in self.end_ids), default=len(ids))
        return labels[:stop] + [IGNORE_INDEX] * (len(ids) - stop)
