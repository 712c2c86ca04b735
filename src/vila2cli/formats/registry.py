"""Every foreign format by the command that reads it: its name, the files it is made from, and its reader."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal

from vila2cli.errors import RecipeError, meant

Command = Literal["shards convert", "shards export", "shards build", "eval import"]


@dataclass(frozen=True, slots=True)
class Format:
    """A file format. `reader` is MODULE:FUNCTION in this package, so that naming formats imports no reader; of
    an export it is its writer.

    `specialists` are those that its annotations can train; `in_shards` when they lie beside their pictures.
    """

    name: str
    files: str
    reader: str
    specialists: tuple[str, ...] = ()
    in_shards: bool = False

    def load(self) -> Any:
        """What reads it: `captions.items.ItemReader`, `specialists.draft.PictureReader` or
        `benchmarks.questions.TaskReader`, by the command; of an export the `exports.rows.Writer`."""
        module, _, function = self.reader.partition(":")
        return getattr(import_module(f"vila2cli.formats.{module}"), function)


def _of(package: str, *forms: Format) -> tuple[Format, ...]:
    """Formats whose readers, where they have one, are in a package."""
    return tuple(replace(form, reader=form.reader and f"{package}.{form.reader}") for form in forms)


_OBJECTS = ("spatial", "grounding")
FORMATS: Mapping[Command, tuple[Format, ...]] = MappingProxyType(
    {
        "shards convert": _of(
            "captions",
            Format("folder", "pictures, and --captions or .txt beside them", "photos:PhotoReader"),
            Format("csv", "paths or URLs in .csv .tsv .jsonl .parquet", "rows:ListReader"),
            Format("llava", "LLaVA's conversations .json", "rows:read_llava"),
            Format("coco", "COCO's captions .json", "rows:read_coco"),
            Format("coyo", "image-text pairs .parquet or .jsonl", "rows:read_pairs"),
            Format("parquet", "pictures, text and metadata in .parquet", "tables:read_parquet"),
            Format("layer", "keys and captions .parquet or .jsonl", "keyed:CaptionTable"),
            Format("mmc4", "MMC4's documents .jsonl, .gz or .zip", "rows:read_mmc4"),
            Format("obelics", "OBELICS' documents .parquet", "rows:read_obelics"),
            Format(
                "img2dataset", "tars or folders that it wrote", "downloads:read_img2dataset", in_shards=True
            ),
            Format(
                "webdataset", "others' tars, captions in .json", "foreign_tars:read_webdataset", in_shards=True
            ),
        ),
        "shards export": _of(
            "exports",
            Format("jsonl", "a row on each line, pictures as files", "files:JsonLines"),
            Format("parquet", "rows as Hugging Face datasets has them", "parquet:Parquet"),
            Format("llava", "LLaVA's list of conversations", "chats:Llava"),
            Format("vila", "VILA's captions by URL, a file per tar", "chats:Vila"),
            Format("webdataset", "tars of pictures and joined text", "", in_shards=True),
        ),
        "shards build": _of(
            "specialists",
            Format("coco", "COCO's instances and captions .json", "coco:read_coco", _OBJECTS),
            Format("refcoco", "instances and references .json", "coco:read_refcoco", _OBJECTS),
            Format("visual-genome", "objects.json image_data.json", "objects:read_genome", _OBJECTS),
            Format("grit", "shards by img2dataset", "objects:read_grit", ("grounding",), in_shards=True),
            Format("nlvr", "NLVR .json", "objects:read_nlvr", _OBJECTS),
            Format("textocr", "TextOCR .json", "words:read_textocr", ("ocr",)),
            Format("docvqa", "DocVQA .json", "words:read_docvqa", ("ocr",)),
            Format("lines", "JSON lines of boxes", "objects:read_boxes", (*_OBJECTS, "ocr")),
        ),
        "eval import": _of(
            "benchmarks",
            Format("vqav2", "questions and annotations .json", "short:read_vqa"),
            Format("textvqa", "TextVQA .json, or questions and annotations .json", "short:read_textvqa"),
            Format("vizwiz", "VizWiz .json, or questions and annotations .json", "short:read_vizwiz"),
            Format("gqa", "questions .json", "short:read_gqa"),
            Format("docvqa", "DocVQA .json", "short:read_docvqa"),
            Format("chartqa", "test_human.json test_augmented.json", "short:read_chartqa"),
            Format("ocrbench", "OCRBench.json", "short:read_ocrbench"),
            Format("pope", "coco_pope_*.json, and LLaVA's llava_pope_test.jsonl", "yesno:read_pope"),
            Format("mme", "the folder of MME", "yesno:read_mme"),
            Format("hallusionbench", "HallusionBench.json", "yesno:read_hallusion"),
            Format("vsr", "VSR .jsonl", "yesno:read_vsr"),
            Format("nlvr", "NLVR or NLVR2 .json", "yesno:read_nlvr"),
            Format("mmbench", "MMBench .tsv", "choice:read_mmbench"),
            Format("vlmevalkit", "AI2D, MMStar, RealWorldQA .tsv", "choice:read_vlmevalkit"),
            Format("scienceqa", "problems.json pid_splits.json", "choice:read_scienceqa"),
            Format("seed", "SEED-Bench.json", "choice:read_seed"),
            Format(
                "mmmu", "MMMU .parquet or .jsonl, its output.json or answer_dict_val.json", "choice:read_mmmu"
            ),
            Format("mmvet", "mm-vet.json", "judged:read_mmvet"),
            Format(
                "llava-bench",
                "LLaVA-Bench's questions.jsonl context.jsonl answers_gpt4.jsonl",
                "judged:read_llava_bench",
            ),
            Format("refcoco", "RefCOCO .json or .jsonl", "images:read_refcoco"),
            Format("captions", "COCO or Karpathy captions .json", "images:read_captions"),
            Format("amber", "query_all.json annotations.json relation.json safe_words.txt", "amber:read_amber"),
            Format("chair", "COCO's captions and instances .json", "images:read_chair"),
        ),
    }
)


def names(command: Command) -> list[str]:
    """The formats that a command reads."""
    return [form.name for form in FORMATS[command]]


def find_format(command: Command, name: str) -> Format:
    """The format of that name; raises RecipeError naming the nearest one, or the command that reads it."""
    for form in FORMATS[command]:
        if form.name == name:
            return form
    elsewhere = next((other for other in FORMATS if name in names(other)), None)
    if elsewhere is not None and "shards export" not in (elsewhere, command):
        hint = f"; vila2 {elsewhere} reads it, vila2 {command} reads {', '.join(names(command))}"
    else:
        hint = meant(name, names(command)) or f"; known are {', '.join(names(command))}"
    raise RecipeError(f"unknown format {name!r}{hint}")
