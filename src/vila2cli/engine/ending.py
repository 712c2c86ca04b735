"""When transformers' `generate` ends besides at an end token: at a text, and at a signal.

Shapes: B rows of the batch, S tokens of prompt and answer so far, T of the answer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

from vila2cli.model.chat import Chat
from vila2cli.run.stopping import Stop
from vila2cli.text.stops import stopped_at

_MARGIN = 8
"""Tokens of text before the longest stop that are looked at with it: a character may take several."""


class Ending(StoppingCriteria):  # type: ignore[misc]
    """Ends rows whose text holds one of `stops`; tells how far it is, and raises Interrupted after a signal.

    `num_tokens` says by row how many tokens it took until then. What follows one of `eos` is padding.
    """

    def __init__(
        self,
        chat: Chat,
        stops: Sequence[str],
        eos: Sequence[int],
        stop: Stop,
        *,
        num_prompt: int,
        num_new: int,
    ) -> None:
        self._chat, self._stops, self._eos, self._stop = chat, tuple(stops), frozenset(eos), stop
        self._num_prompt, self._num_new = num_prompt, num_new
        self._reach = _MARGIN + max((len(one.encode()) for one in stops), default=0)
        self.num_tokens: dict[int, int] = {}

    def __call__(self, input_ids_BS: torch.Tensor, scores: Any, **others: Any) -> torch.Tensor:
        num_done = input_ids_BS.shape[1] - self._num_prompt
        self._stop.beat(f"token {num_done} of {self._num_new} at most, {len(input_ids_BS)} at once")
        is_done_B = torch.zeros(len(input_ids_BS), dtype=torch.bool, device=input_ids_BS.device)
        if not self._stops:
            return is_done_B
        for row, ids_T in enumerate(input_ids_BS[:, self._num_prompt :].tolist()):
            if row not in self.num_tokens and self._eos.isdisjoint(ids_T) and self._holds(ids_T):
                self.num_tokens[row] = len(ids_T)
        is_done_B[list(self.num_tokens)] = True
        return is_done_B

    def _holds(self, ids: list[int]) -> bool:
        """Whether a stop is there; the end is looked at first, as decoding all of it takes long."""
        parts = (ids[-self._reach :], ids)
        return all(stopped_at(self._chat.generated(part), self._stops) is not None for part in parts)
