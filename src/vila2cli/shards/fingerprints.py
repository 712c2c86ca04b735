"""What tells one file from another without keeping it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells a file from a changed one: size, and time of change or the store's tag; then its SHA-256.

    Of what cannot be known without reading, `num_bytes` is None and the others are "". Of a gzip file that
    was read, `unpacked` is the SHA-256 of what is packed in it.
    """

    num_bytes: int | None
    tag: str
    sha256: str = ""
    unpacked: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        return {"num_bytes": self.num_bytes, "tag": self.tag, "sha256": self.sha256}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Fingerprint":
        return cls(value.get("num_bytes"), str(value.get("tag", "")), str(value.get("sha256", "")))

    def agrees(self, other: "Fingerprint") -> bool | None:
        """Whether both are of the same bytes; None when only reading could tell."""
        if self.num_bytes != other.num_bytes and None not in (self.num_bytes, other.num_bytes):
            return False
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        return True if self.tag and self.tag == other.tag else None

    def differs(self, other: "Fingerprint") -> bool:
        """Whether the file was changed between the two looks at it, as far as its size and tag tell."""
        return self.agrees(other) is False or bool(self.tag and other.tag and self.tag != other.tag)


def of_status(status: os.stat_result) -> Fingerprint:
    """What a local file's status tells."""
    return Fingerprint(status.st_size, f"mtime {status.st_mtime_ns}")
