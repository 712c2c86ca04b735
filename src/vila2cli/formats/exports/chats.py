"""What trainers of LLaVA and VILA read: conversations in one list, and captions by URL in a file per tar."""

import json
import os
from pathlib import Path
from typing import Any

from vila2cli.formats.exports.files import WholeFile
from vila2cli.formats.exports.rows import Content, picture_files, write_pictures
from vila2cli.shards import Shard
from vila2cli.shards.members import Unusable
from vila2cli.shards.places import is_remote, local_path
from vila2cli.shards.sample import IMAGE_PLACEHOLDER, Sample, Turn
from vila2cli.text.compose import compose_caption, neutral

LLAVA_FILE, _PARTS = "llava.json", "shards"
_ROLES = {"user": "human", "assistant": "gpt", "system": "system"}


class Llava(WholeFile):
    """shards/SHARD.json, a list of {id, image, conversations}; `join` makes one list of all of them.

    `image` names the file of the picture in the export, a list of names where there are several. A
    conversation stays as it is; a caption becomes the answer to a question, followed by the specialists' turns.
    """

    def __init__(self, folder: Path, shard: Shard, content: Content) -> None:
        super().__init__(folder / _PARTS / f"{shard.name}.json")
        self._folder, self._shard, self._content = folder, shard.name, content
        self._num = 0

    def add(self, sample: Sample) -> None:
        turns = list(sample.turns) or self._described(sample)
        item: dict[str, Any] = {"id": f"{self._shard}/{sample.key}"}
        if files := picture_files(sample, self._shard):
            names = write_pictures(self._folder, files) if self._content.with_pictures else list(files)
            item["image"] = names[0] if len(names) == 1 else names
        marked = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in turns)
        conversations = [{"from": _ROLES[turn.role], "value": turn.text} for turn in turns]
        first = next((turn for turn in conversations if turn["from"] == "human"), None)
        if first is not None and files and not marked:
            first["value"] = f"{IMAGE_PLACEHOLDER}\n" * len(files) + first["value"]
        item["conversations"] = conversations
        self.write(f"{',' if self._num else '['}\n{json.dumps(item, ensure_ascii=False)}")
        self._num += 1

    def _described(self, sample: Sample) -> list[Turn]:
        caption = compose_caption(sample, self._content.captions)
        if caption is None:
            raise Unusable("no-caption", f"it has none of {', '.join(self._content.captions)}")
        turns = [Turn("user", self._content.question), Turn("assistant", neutral(caption))]
        for name in self._content.answers:
            if (answer := sample.annotation(name)) is not None:
                turns += [Turn(turn.role, neutral(turn.text)) for turn in answer.turns]
        return turns

    def close(self) -> None:
        self.write("\n]\n" if self._num else "[]\n")
        super().close()


def join_lists(folder: Path, names: list[str]) -> None:
    """Write llava.json, the list of all shards."""
    whole = WholeFile(folder / LLAVA_FILE)
    try:
        is_first = True
        for name in names:
            with (folder / _PARTS / f"{name}.json").open(encoding="utf-8") as lines:
                for line in lines:
                    if (item := line.strip().rstrip(",")) not in ("", "[", "]", "[]"):
                        whole.write(f"{'[' if is_first else ','}\n{item}")
                        is_first = False
        whole.write("[]\n" if is_first else "\n]\n")
        whole.close()
    finally:
        whole.abort()


def tar_name(shard: Shard, root: str) -> str:
    """The name of a base tar below the folder that all are in, as VILA's reader has it."""
    if is_remote(shard.url):
        return f"{shard.name}.tar"
    return os.path.relpath(os.path.realpath(local_path(shard.url)), os.path.realpath(root))


class Vila(WholeFile):
    """SHARD.tar.json: {URL: {"output": caption}}, in a folder that VILA's `caption_choice` names.

    Its reader finds the file by the name of the tar and the caption by the `url` of KEY.json; of a sample
    without one it is the key. It adds the original caption itself.
    """

    def __init__(self, folder: Path, shard: Shard, content: Content) -> None:
        super().__init__(folder / f"{tar_name(shard, content.root)}.json")
        self._content, self._captions = content, dict[str, Any]()

    def add(self, sample: Sample) -> None:
        caption = compose_caption(sample, self._content.captions)
        if caption is None:
            raise Unusable("no-caption", f"it has none of {', '.join(self._content.captions)}")
        url = sample.meta.get("url")
        name = url if isinstance(url, str) and url else sample.key
        if name in self._captions:
            raise Unusable("url-twice", f"an earlier sample of its tar has {name}, too")
        self._captions[name] = {"output": caption}

    def close(self) -> None:
        self.write(json.dumps(self._captions, ensure_ascii=False))
        super().close()
