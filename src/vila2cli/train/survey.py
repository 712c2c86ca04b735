"""Finding out, when a training starts, how a model's class is trained rightly: by computation, not by its name.

A few tiny conversations go through the model's own forward pass, each alone, as its processor would
have it. Whatever the training does otherwise - logits for trained tokens alone, padding, packing - has to give
the same logits, or is not done.

Shapes: S tokens, T trained tokens, V vocabulary entries.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from vila2cli.errors import DataError, ModelError, RecipeError, one_line
from vila2cli.model.chat import IGNORE_INDEX, Chat
from vila2cli.model.layers import context_length, turning_length
from vila2cli.model.loading import RUN_ERRORS
from vila2cli.model.reference import check_places, check_vocabulary, padding
from vila2cli.settings import TrainerSettings, TrainSettings
from vila2cli.shards.sample import IMAGE_PLACEHOLDER, Turn
from vila2cli.train.attention import BY_SAMPLE, FLASH, choose_kernel, joins_sequences, kernel_of, set_kernel
from vila2cli.train.data import TrainSample, first_trained
from vila2cli.train.distribution import Ranks
from vila2cli.train.manner import Axes, Manner, begin_training, has_axes
from vila2cli.train.objective import Batcher, Objective, sample_of

_UNFIT: tuple[type[Exception], ...] = (*RUN_ERRORS, DataError, ModelError)
_TOLERANCE = {torch.float32: 2e-4}
_ROUGH = 5e-2
"""By number format and for all others, how far logits may lie apart, in parts of the largest one."""
_SIZES = ((40, 28), (36, 56), (48, 48), (900, 300))
"""The last one is cut into more tiles, or scaled to more tokens, unless those are too many."""
_MOST_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a training is to do: pack samples with one of these kernels, the best one first; pad sequences."""

    kernels: tuple[str, ...] = ()
    pads: bool = True


def survey_of(
    model: PreTrainedModel, chat: Chat, phases: Sequence[TrainSettings], trainer: TrainerSettings, ranks: Ranks
) -> Manner:
    """How a model is to be trained in phases, as the first process finds out for all of them."""
    _check_turning(model, phases)
    packing = [settings for settings in phases if settings.packing]
    kernels = [kernel_for(model, settings, trainer, ranks) for settings in packing[:1]]
    if kernels and trainer.attention == "auto":
        kernels.append("sdpa")
    pads = any(not settings.packing and settings.micro_batch_size != 1 for settings in phases)

    def find() -> dict[str, Any]:
        if ranks.device.type == "cuda" and not ranks.launch.is_sharded:
            model.to(ranks.device)  # where the training puts it, too
        found = survey(model, chat, Wanted(tuple(dict.fromkeys(kernels)), pads))
        return {field.name: getattr(found, field.name) for field in fields(Manner) if field.name != "axes"}

    return Manner(**ranks.first(find), axes=Axes(model) if kernels and has_axes(model) else None)


def _check_turning(model: PreTrainedModel, phases: Sequence[TrainSettings]) -> None:
    """Raise RecipeError where LongRoPE would turn short samples as the long ones that they are batched with."""
    length = turning_length(model.config)
    together = [one for one in phases if one.packing or one.micro_batch_size != 1]
    if length and any(one.max_length > length for one in together):
        raise RecipeError(
            f"by LongRoPE positions of a whole batch turn otherwise where one of its samples is above "
            f"{length:,} tokens: set max_length = {length}, or packing = false and micro_batch_size = 1"
        )


def kernel_for(model: PreTrainedModel, settings: TrainSettings, trainer: TrainerSettings, ranks: Ranks) -> str:
    """The attention kernel that the settings ask for."""
    return choose_kernel(
        model, trainer.attention, ranks.device, is_packed=settings.packing, is_bf16=ranks.launch.is_bf16
    )


def survey(model: PreTrainedModel, chat: Chat, wanted: Wanted) -> Manner:
    """How the model is to be trained.

    Raises ModelError for a class that cannot be trained here at all, RecipeError for one that cannot be
    padded or packed as `wanted`.
    """
    chat.pixel_inputs([[_picture(*_SIZES[0])]])  # refused where the processor lays out every prompt
    check_places(chat, model.config, type(model).__name__)
    check_vocabulary(model, chat)
    with _as_in_training(model), torch.no_grad():
        return _Survey(model, chat).find(wanted)


class _Survey:
    def __init__(self, model: PreTrainedModel, chat: Chat) -> None:
        self.model, self.chat, self.name = model, chat, type(model).__name__
        self.samples = _conversations(chat, min(_MOST_TOKENS, context_length(model.config)))
        self.device = next(model.parameters()).device
        self.tolerance = _TOLERANCE.get(next(model.parameters()).dtype, _ROUGH)

    def find(self, wanted: Wanted) -> Manner:
        if getattr(self.model.config, "is_encoder_decoder", False):
            raise ModelError(f"{self.name} is an encoder-decoder model, which cannot be trained here")
        manner = Manner(
            keeps_some_logits="logits_to_keep" in inspect.signature(self.model.forward).parameters,
            pad_id=padding(self.model, self.chat, self.chat.end_ids),
        )
        if self._sees_ahead(manner):
            raise ModelError(f"{self.name} cannot be trained here: its answers see the tokens that follow them")
        if not self._has_plain_logits(manner):
            manner = replace(manner, has_own_logits=True)
        alone = [self._own(sample, manner)[0] for sample in self.samples]
        if wanted.pads:
            batcher = Batcher(self.chat, manner=manner)
            if problem := self._difference(batcher, alone, [[sample] for sample in self.samples]):
                raise RecipeError(
                    f"{self.name} cannot be trained on samples padded to one length: {problem}; "
                    "set micro_batch_size = 1"
                )
        return self._packing(manner, alone, wanted.kernels) if wanted.kernels else manner

    def _own(self, sample: TrainSample, manner: Manner) -> tuple[Tensor, Tensor]:
        """The trained tokens' logits of a sample alone, T x V, and all of them, S x V, by the class itself."""
        loaded = Batcher(self.chat, manner=manner).load([[(sample, 0)]])
        inputs = self._placed(loaded.tensors)
        trained_1S = inputs.pop("labels")[:, 1:] != IGNORE_INDEX
        try:
            logits_1SV = self.model(**inputs, use_cache=False).logits
        except torch.OutOfMemoryError:
            raise
        except RUN_ERRORS as error:
            raise ModelError(
                f"{self.name} cannot be trained here: its forward pass fails: {one_line(error)}"
            ) from error
        if logits_1SV.shape[:2] != inputs["input_ids"].shape:
            raise ModelError(f"{self.name} cannot be trained here: it does not give logits for every token")
        return logits_1SV[:, :-1][trained_1S], logits_1SV[0]

    def _sees_ahead(self, manner: Manner) -> bool:
        """Whether a token has a part in the logits of tokens before it."""
        sample = self.samples[0]
        last = max(i for i, label in enumerate(sample.labels) if label != IGNORE_INDEX)
        first, ids = first_trained(sample), list(sample.ids)
        ids[last] = next(token for token in (ids[first], *ids) if token != ids[last])
        changed = TrainSample(sample.key, ids, sample.labels, sample.images)
        before, after = (self._own(one, manner)[1][first - 1 : last] for one in (sample, changed))
        return not self._is_same(after, before)

    def _has_plain_logits(self, manner: Manner) -> bool:
        """Whether the head alone makes of the hidden states what the class gives as logits, to the bit."""
        sample = self.samples[0]
        loaded = Batcher(self.chat, manner=manner).load([[(sample, 0)]])
        inputs = self._placed(loaded.tensors)
        inputs.pop("labels")
        try:
            hidden_1SD = self.model.model(**inputs, use_cache=False).last_hidden_state
            logits_SV = self.model.get_output_embeddings()(hidden_1SD)[0]
        except torch.OutOfMemoryError:
            raise
        except RUN_ERRORS:
            return False
        return torch.equal(logits_SV, self._own(sample, manner)[1])

    def _packing(self, manner: Manner, alone: Sequence[Tensor], kernels: Sequence[str]) -> Manner:
        own, problem = kernel_of(self.model), ""
        if has_axes(self.model):
            manner = replace(manner, axes=Axes(self.model))
        for kernel in kernels:
            # Flash attention is for bfloat16 on CUDA alone; how samples are told apart is the same.
            used = BY_SAMPLE if kernel == FLASH else kernel
            batcher = Batcher(self.chat, is_packed=True, in_one=joins_sequences(used), manner=manner)
            try:
                set_kernel(self.model, used)
            except ValueError as error:  # a class that has not got it
                problem = one_line(error)
                continue
            problem = self._difference(batcher, alone, [self.samples])
            set_kernel(self.model, own)
            if not problem:
                return replace(manner, packed_kernel=kernel)
        raise RecipeError(
            f"{self.name} cannot be trained on packed samples: {problem}; set packing = false in the recipe"
        )

    def _difference(
        self, batcher: Batcher, alone: Sequence[Tensor], sequences: Sequence[Sequence[TrainSample]]
    ) -> str:
        """What is wrong with the trained tokens' logits where a batcher lays the samples; "" for nothing."""
        try:
            loaded = batcher.load([[(sample, 0) for sample in members] for members in sequences])
            inputs = self._placed(loaded.tensors)
            trained_BS = inputs.pop("labels")[:, 1:] != IGNORE_INDEX
            objective = Objective(self.model, None, manner=batcher.manner)
            logits_TV = objective.logits(inputs, trained_BS, loaded.sample_lengths)
        except torch.OutOfMemoryError:
            raise
        except _UNFIT as error:
            return one_line(error)
        is_same = self._is_same(logits_TV, torch.cat(list(alone)))
        return "" if is_same else "their tokens get other logits than in each sample alone"

    def _placed(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in tensors.items() if name != "sources"}

    def _is_same(self, logits: Tensor, wanted: Tensor) -> bool:
        if logits.shape != wanted.shape:
            return False
        logits, wanted = logits.float(), wanted.float()
        return bool((logits - wanted).abs().max() <= self.tolerance * wanted.abs().max())


def _conversations(chat: Chat, most_tokens: int) -> list[TrainSample]:
    """Tiny conversations about pictures of different shapes, each of so many tokens at most."""
    spoken = (
        ("What is this?", "A red bar."),
        ("And this?", "Two."),
        ("And here?", "It is blue."),
        ("Now?", "No."),
    )
    samples = []
    for number, ((asked, answered), size) in enumerate(zip(spoken, _SIZES, strict=True)):
        turns = [Turn("user", f"{IMAGE_PLACEHOLDER}{asked}"), Turn("assistant", answered)]
        samples.append(sample_of(chat, str(number), turns, [_picture(*size)]))
    return [sample for i, sample in enumerate(samples) if not i or len(sample.ids) <= most_tokens]


def _picture(width: int, height: int) -> Image.Image:
    """Stripes of three colours, so that features differ from place to place."""
    image = Image.new("RGB", (width, height), (200, 30, 60))
    image.paste((20, 90, 220), (0, 0, width // 3, height))
    image.paste((250, 240, 10), (width // 2, height // 2, width, height))
    return image


@contextmanager
def _as_in_training(model: PreTrainedModel) -> Iterator[None]:
    """The model as it is while it trains, but for what is drawn at random there."""
    was_training = model.training
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        begin_training(model)
        for module in filter(_draws, model.modules()):
            module.eval()
        try:
            yield
        finally:
            model.train(was_training)


def _draws(module: torch.nn.Module) -> bool:
    """Whether a module drops something at random while it trains: attention has the share as a number."""
    shares = [value for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]
    return isinstance(module, torch.nn.Dropout) or any(shares)
