"""Published benchmark files as evaluation tasks: `FORMATS` names who reads which."""

import difflib

from vila2cli.errors import DataError
from vila2cli.formats.benchmarks.amber_files import read_amber
from vila2cli.formats.benchmarks.choice_files import (
    read_mmbench,
    read_mmmu,
    read_scienceqa,
    read_seed,
    read_vlmevalkit,
)
from vila2cli.formats.benchmarks.image_files import read_captions, read_chair, read_refcoco
from vila2cli.formats.benchmarks.judged_files import read_llava_bench, read_mmvet
from vila2cli.formats.benchmarks.reading import Format
from vila2cli.formats.benchmarks.short_files import (
    read_chartqa,
    read_docvqa,
    read_gqa,
    read_ocrbench,
    read_textvqa,
    read_vizwiz,
    read_vqa,
)
from vila2cli.formats.benchmarks.yesno_files import read_hallusion, read_mme, read_nlvr, read_pope, read_vsr

FORMATS = {
    one.name: one
    for one in (
        Format("vqav2", "questions and annotations .json", read_vqa),
        Format("textvqa", "TextVQA .json, or questions and annotations .json", read_textvqa),
        Format("vizwiz", "VizWiz .json, or questions and annotations .json", read_vizwiz),
        Format("gqa", "questions .json", read_gqa),
        Format("docvqa", "DocVQA .json", read_docvqa),
        Format("chartqa", "test_human.json test_augmented.json", read_chartqa),
        Format("ocrbench", "OCRBench.json", read_ocrbench),
        Format("pope", "coco_pope_*.json, and LLaVA's llava_pope_test.jsonl", read_pope),
        Format("mme", "the folder of MME", read_mme),
        Format("hallusionbench", "HallusionBench.json", read_hallusion),
        Format("vsr", "VSR .jsonl", read_vsr),
        Format("nlvr", "NLVR or NLVR2 .json", read_nlvr),
        Format("mmbench", "MMBench .tsv", read_mmbench),
        Format("vlmevalkit", "AI2D, MMStar, RealWorldQA .tsv", read_vlmevalkit),
        Format("scienceqa", "problems.json pid_splits.json", read_scienceqa),
        Format("seed", "SEED-Bench.json", read_seed),
        Format("mmmu", "MMMU .parquet or .jsonl, its output.json or answer_dict_val.json", read_mmmu),
        Format("mmvet", "mm-vet.json", read_mmvet),
        Format(
            "llava-bench", "LLaVA-Bench's questions.jsonl context.jsonl answers_gpt4.jsonl", read_llava_bench
        ),
        Format("refcoco", "RefCOCO .json or .jsonl", read_refcoco),
        Format("captions", "COCO or Karpathy captions .json", read_captions),
        Format("amber", "query_all.json annotations.json relation.json safe_words.txt", read_amber),
        Format("chair", "COCO's captions and instances .json", read_chair),
    )
}


def find_format(name: str) -> Format:
    """The format of that name; raises DataError naming the nearest one."""
    if name in FORMATS:
        return FORMATS[name]
    near = difflib.get_close_matches(name, FORMATS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(FORMATS)}"
    raise DataError(f"no benchmark format is named {name!r}; {hint}")
