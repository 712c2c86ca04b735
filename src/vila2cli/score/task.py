"""An evaluation task: a folder of shards with a task.toml that says how to ask and how to score.

name = "world-ocr"          # default: the folder's name
version = "1"
split = "eval"
answer_type = "short"       # yesno, short, choice, box, caption, or open (scored by a judge)
scorer = "ocr"              # default: the one of the answer type
question = "..."            # left out when every sample has its own in KEY.json
prompt = "{question}\\nAnswer the question using a single word or phrase."    # default: "{question}"
box_frame = "xyxy-1"        # boxes only: the frame of plain numbers in answers, in place of the samples' own
synonyms = "synonyms.txt"   # CHAIR only: words for objects, a file beside this one
[vocabulary]                # scorer "facts" only: size, colour, shape, place
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vila2cli.errors import DataError, RecipeError
from vila2cli.score import BY_TYPE, CAPTION_SCORERS, find_scorer
from vila2cli.score.box_frames import AUTO, FRAMES
from vila2cli.score.chair import read_synonyms
from vila2cli.score.scorer import Reference, Scorer, Vocabulary
from vila2cli.shards.places import seen_from
from vila2cli.shards.sample import Sample

TASK_FILE = "task.toml"
_SLOTS = ("size", "colour", "shape", "place")
_QUESTION = "{question}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task; `question` is None when each sample asks its own. `prompt` is what is sent, around it."""

    name: str
    version: str
    split: str
    answer_type: str
    scorer: Scorer
    question: str | None
    prompt: str
    vocabulary: Vocabulary | None
    synonyms: Mapping[str, str]
    box_frame: str
    folder: Path

    @property
    def is_caption(self) -> bool:
        """Whether answers are captions; the others count into the question-answering mean."""
        return self.answer_type == "caption"

    def question_of(self, sample: Sample) -> str:
        """The text sent to the model; raises DataError when neither task nor sample has one."""
        question = self.question if self.question is not None else sample.meta.get("question")
        if not isinstance(question, str) or not question.strip():
            raise DataError("the sample has no 'question' and its task.toml neither")
        return self.prompt.replace(_QUESTION, question)

    def reference_of(self, sample: Sample) -> Reference:
        """What is true for a sample; raises DataError when answers or scene have the wrong form."""
        answers, scene = sample.meta.get("answers", []), sample.meta.get("scene") or {}
        if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
            raise DataError("'answers' should be a list of texts")
        if not isinstance(scene, Mapping):
            raise DataError("'scene' should be a table")
        return Reference(
            answers=tuple(answers),
            scene=scene,
            vocabulary=self.vocabulary,
            synonyms=self.synonyms,
            meta={**sample.meta, "box_frame": self.box_frame} if self.box_frame else sample.meta,
        )


def find_tasks(specs: Sequence[str | Path], *, box_frame: str = "") -> list[Task]:
    """Load tasks from folders, globs of folders, or folders of task folders, each task once.

    Of tasks with one name each is named with what tells its folder apart, `pope@coco` and `pope@gqa`.
    `box_frame` is the frame of all boxes in answers. Raises DataError for a spec that holds no task, and
    RecipeError for an unknown frame.
    """
    folders: dict[Path, Path] = {}
    for spec in specs:
        matched = [folder for match in _matches(Path(spec)) for folder in _task_folders(match)]
        if not matched:
            raise DataError(
                f"no {TASK_FILE} in {spec}{seen_from(spec)}; give task folders, such as data/world/eval/*"
            )
        for folder in matched:
            folders.setdefault(folder.resolve(), folder)
    tasks = told_apart([load_task(folder) for folder in folders.values()])
    return [_framed(task, box_frame) for task in tasks] if box_frame else tasks


def told_apart(tasks: Sequence[Task]) -> list[Task]:
    """The tasks, those of one name named NAME@PART by the nearest part of their folders' paths that differs.

    So the names depend on the folders alone, not on their order.
    """
    by_name: dict[str, list[Task]] = {}
    for task in tasks:
        by_name.setdefault(task.name, []).append(task)
    names = {task.folder: task.name for task in tasks}
    for name, same in by_name.items():
        if len(same) > 1:
            paths = [task.folder.resolve().parts[::-1] for task in same]
            for task, part in zip(same, _differing_parts(paths), strict=True):
                names[task.folder] = f"{name}@{part}"
    if len(set(names.values())) < len(tasks):
        raise DataError(
            f"tasks cannot be told apart by name and folder: {', '.join(map(str, names))}; rename some"
        )
    return [replace(task, name=names[task.folder]) for task in tasks]


def _differing_parts(paths: Sequence[Sequence[str]]) -> list[str]:
    """Of paths from their ends the first part that differs in all, else as many parts as it takes."""
    longest = max(map(len, paths))
    for depth in range(longest):
        parts = [path[depth] if depth < len(path) else "" for path in paths]
        if len(set(parts)) == len(paths) and "" not in parts:
            return [part.strip("/") or "root" for part in parts]
    for depth in range(1, longest + 1):
        joined = ["-".join(part.strip("/") for part in path[:depth][::-1]) for path in paths]
        if len(set(joined)) == len(paths):
            return joined
    return ["-".join(path[::-1]).strip("/") for path in paths]


def _framed(task: Task, box_frame: str) -> Task:
    """The task with another frame for plain numbers, where its answers are boxes."""
    if box_frame not in (*FRAMES, AUTO):
        raise RecipeError(
            f"eval.box_frame is {box_frame!r}; it should be {AUTO}, or one of {', '.join(FRAMES)}"
        )
    return replace(task, box_frame=box_frame) if task.answer_type == "box" else task


def load_task(folder: Path) -> Task:
    """Read task.toml; raises DataError naming the file and the key that does not fit."""
    path = folder / TASK_FILE
    try:
        return _parse_task(tomllib.loads(path.read_text(encoding="utf-8")), folder)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _parse_task(table: Mapping[str, Any], folder: Path) -> Task:
    answer_type = _text(table, "answer_type")
    if answer_type not in BY_TYPE:
        raise DataError(f"answer_type is {answer_type!r}; it should be one of {', '.join(BY_TYPE)}")
    scorer = find_scorer(_text(table, "scorer", BY_TYPE[answer_type][0].name))
    is_other = (answer_type == "open") != (scorer.marking is not None)
    if is_other or (answer_type == "caption") != (scorer.name in CAPTION_SCORERS):
        raise DataError(f"answer_type {answer_type!r} cannot be scored by {scorer.name!r}")
    name = _text(table, "name", folder.resolve().name)
    if not name or "/" in name or name.startswith("."):
        raise DataError(f"name {name!r} cannot be a folder's name")
    return Task(
        name=name,
        version=_text(table, "version", "1"),
        split=_text(table, "split", ""),
        answer_type=answer_type,
        scorer=scorer,
        question=_text(table, "question") if "question" in table else None,
        prompt=_prompt(table),
        vocabulary=_vocabulary(table) if scorer.name == "facts" else None,
        synonyms=read_synonyms(folder / _text(table, "synonyms")) if "synonyms" in table else {},
        box_frame=_box_frame(table),
        folder=folder,
    )


def _text(table: Mapping[str, Any], key: str, default: str = "") -> str:
    value = table.get(key, default)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{key} should be a text, not {value!r}")
    return value


def _box_frame(table: Mapping[str, Any]) -> str:
    frame = _text(table, "box_frame")
    if frame not in ("", AUTO, *FRAMES):
        raise DataError(f"box_frame is {frame!r}; it should be {AUTO}, or one of {', '.join(FRAMES)}")
    return frame


def _prompt(table: Mapping[str, Any]) -> str:
    prompt = _text(table, "prompt", _QUESTION)
    if _QUESTION not in prompt:
        raise DataError(f"prompt is {prompt!r}; the question goes where {_QUESTION} stands")
    return prompt


def _vocabulary(table: Mapping[str, Any]) -> Vocabulary:
    slots = table.get("vocabulary")
    if not isinstance(slots, dict):
        raise DataError(f"a caption task needs a [vocabulary] with {', '.join(_SLOTS)}")
    words = [slots.get(slot) for slot in _SLOTS]
    for slot, values in zip(_SLOTS, words, strict=True):
        if not isinstance(values, list) or not values or not all(isinstance(v, str) and v for v in values):
            raise DataError(f"vocabulary.{slot} should be a list of words")
    return Vocabulary(*(tuple(values) for values in words if values is not None))


def _matches(spec: Path) -> list[Path]:
    if spec.exists():
        return [spec]
    root = Path(spec.anchor)
    return sorted(root.glob(str(spec.relative_to(root))))


def _task_folders(folder: Path) -> list[Path]:
    if (folder / TASK_FILE).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{TASK_FILE}"))
