"""How fast an API may be asked, and how much of it may be used."""

from dataclasses import dataclass, field

from vila2cli.engine.replies import Usage
from vila2cli.settings import ApiSettings

MAX_WAIT_S = 30.0


class RateLimit:
    """Turns at least `60 / per_minute` seconds apart; 0 is no limit. Times are seconds of one clock."""

    def __init__(self, per_minute: int) -> None:
        self._interval_s = 60.0 / per_minute if per_minute else 0.0
        self._next_s = 0.0

    def turn(self, now_s: float) -> float:
        """Take the next turn; returns how many seconds to wait for it."""
        start_s = max(now_s, self._next_s)
        self._next_s = start_s + self._interval_s
        return start_s - now_s

    def hold(self, until_s: float) -> None:
        """Give no turn before a time, as a server asks with Retry-After."""
        self._next_s = max(self._next_s, until_s)


@dataclass(slots=True)
class Budget:
    """Tokens and dollars used and set aside, against the limits of the settings.

    What is in flight is counted at its longest: every answer as long as requested, every prompt as
    long as the longest so far. Until one prompt's length is known requests go one at a time. So a
    limit is passed by no more than prompts differ in length.
    """

    settings: ApiSettings
    num_read: int = 0
    num_written: int = 0
    _longest_prompt: int = 0
    _reserved: dict[int, int] = field(default_factory=dict)

    @property
    def has_prices(self) -> bool:
        return bool(self.settings.dollars_per_million_read or self.settings.dollars_per_million_written)

    @property
    def is_limited(self) -> bool:
        return bool(self.settings.max_tokens_total or self.settings.max_dollars)

    def reserve(self, serial: int, num_new: int) -> bool:
        """Set the longest answer of a request aside; False where it might pass a limit."""
        max_tokens, max_dollars = self.settings.max_tokens_total, self.settings.max_dollars
        if self.is_limited and self._reserved and not self._longest_prompt:
            return False
        num_read = self.num_read + (len(self._reserved) + 1) * self._longest_prompt
        num_written = self.num_written + sum(self._reserved.values()) + num_new
        if max_tokens and num_read + num_written > max_tokens:
            return False
        if max_dollars and self._price(num_read, num_written) > max_dollars:
            return False
        self._reserved[serial] = num_new
        return True

    def settle(self, serial: int, usage: Usage | None) -> None:
        """Count what a request took in place of what was set aside for it, or that, where nobody says."""
        num_new = self._reserved.pop(serial)
        usage = usage or Usage(self._longest_prompt, num_new)
        self.num_read += usage.num_read
        self.num_written += usage.num_written
        self._longest_prompt = max(self._longest_prompt, usage.num_read)

    @property
    def dollars(self) -> float:
        return self._price(self.num_read, self.num_written)

    def spent(self) -> str:
        """What was used, in words."""
        dollars = f" for ${self.dollars:,.2f}" if self.has_prices else ""
        return f"{self.num_read:,} tokens were read and {self.num_written:,} written{dollars}, and no more fits"

    def _price(self, num_read: int, num_written: int) -> float:
        settings = self.settings
        dollars = settings.dollars_per_million_read * num_read
        return (dollars + settings.dollars_per_million_written * num_written) / 1e6


def wait_s(attempt: int, jitter: float) -> float:
    """Seconds before the next try, after `attempt` failed ones: 1, 2, 4, ... 30, times 0.5 to 1.5.

    `jitter` is a random number of 0 to 1, so that requests which failed together do not come back together.
    """
    return min(MAX_WAIT_S, 2.0 ** (attempt - 1)) * (0.5 + jitter)
