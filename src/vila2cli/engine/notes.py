"""What an engine has to say while it works: a model that asks to wait, a setting that is not taken."""

from collections.abc import Callable

from vila2cli.engine import Engine


class NewNotes:
    """Tells each note of an engine once."""

    def __init__(self) -> None:
        self._num_told = 0

    def tell(self, engine: Engine | None, say: Callable[[str], None]) -> None:
        """Say what is new since the last time."""
        notes = engine.notes[self._num_told :] if engine is not None else []
        for note in notes:
            say(note)
        self._num_told += len(notes)
