"""What a job will cost, from its first samples; nothing is written."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vila2cli.ask.fill import Annotator, Part
from vila2cli.ask.job import Job, open_for
from vila2cli.errors import DataError
from vila2cli.run.cost import Cost, cost_of, counted, price_text, three_digits, waits_line
from vila2cli.run.progress import Progress
from vila2cli.run.results import StageResult
from vila2cli.run.stopping import interruptible
from vila2cli.shards import LayerWriter, expected_samples

NUM_TRIED = 64


@dataclass(frozen=True, slots=True)
class CostEstimate(StageResult):
    """What the first samples cost, and how many like them there are in all, None where nothing tells.

    A sample counts once for each layer that is written in the pass.
    """

    tried: Cost
    num_samples: int | None
    num_shards: int
    num_requests: int

    def lines(self) -> list[str]:
        """The estimate for the terminal, and how far it can be trusted."""
        is_short = self.tried.num_images < NUM_TRIED
        return [
            f"{counted(self.tried.num_images, 'sample')}, {counted(self.num_requests, 'request')} "
            f"in {self.tried.seconds:.1f} s, with the model loaded",
            self.tried.line(),
            waits_line(asdict(self.tried)),
            self._whole(),
            "of so few samples little can be told: the first ones are slower"
            if is_short
            else "a first batch is slower than a full run: it fills and drains once",
        ]

    def _whole(self) -> str:
        shards = counted(self.num_shards, "shard")
        if self.num_samples is None:
            return f"how many samples the {shards} hold is not known without reading them"
        whole = self.tried.times(self.num_samples)
        price = f", {price_text(whole.dollars)}" if whole.dollars else ""
        here = f"{whole.seconds / 3600:,.2f} h" if whole.seconds >= 360 else f"{whole.seconds:,.0f} s"
        return (
            f"all of about {counted(self.num_samples, 'sample')} in {shards}: "
            f"{here} here, {three_digits(whole.hours)} {whole.device}{price}"
        )


def estimate(jobs: Sequence[Job[Any]], *, num_tried: int = NUM_TRIED) -> CostEstimate:
    """Try the first `num_tried` samples of jobs of one pass and write nothing.

    Raises DataError when none of them is answered.
    """
    name = ", ".join(job.layer for job in jobs)
    first, source = jobs[0], jobs[0].source
    total, _ = expected_samples(source.shards)
    num_shown = num_tried
    if total is not None:  # but for the one that an engine here is warmed up with
        num_shown = min(num_tried, max(1, total - (first.settings.engine != "api")))
    with interruptible() as stop, Progress(f"{name} --estimate", len(jobs) * num_shown) as progress:
        engine = open_for(jobs, stop)
        unwritten = {job.layer: LayerWriter(Path(job.layer), job.layer, source) for job in jobs}
        parts = [
            Part(
                unwritten[job.layer],
                job.make_task(engine.name),
                source.shards,
                tuple(unwritten[one] for one in job.uses),
            )
            for job in jobs
        ]
        annotator = Annotator(engine, parts, stop=stop, progress=progress)
        figures = annotator.try_out(num_tried * len(jobs))
    if not figures["answered"]:
        why = annotator.failures[first.layer].commonest() or "there was nothing to ask"
        tried = f"none of the first {figures['read']:,.0f} samples got an answer"
        raise DataError(f"{tried}, so nothing can be estimated: {why}")
    share = figures["wanted"] / figures["read"] * figures["answered"] / figures["begun"]
    return CostEstimate(
        tried=cost_of(first.recipe.cost, figures),
        num_samples=None if total is None else round(total * share),
        num_shards=len(source.shards),
        num_requests=int(figures["requests"]),
    )
