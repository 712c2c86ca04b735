"""What a job will cost, from its first samples; nothing is written."""

from dataclasses import dataclass
from pathlib import Path

from vila2cli.captioning.layer import Job
from vila2cli.cost import Cost, cost_of
from vila2cli.engine.annotator import Annotator
from vila2cli.progress import Progress
from vila2cli.shards import LayerWriter, num_samples
from vila2cli.stopping import interruptible

NUM_TRIED = 64
MAX_COUNTED_SHARDS = 4
"""Shards whose samples are counted; of more, the others are taken to hold as many on average."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the first samples cost, and how many there are in all."""

    tried: Cost
    num_samples: int
    num_shards: int
    num_requests: int

    def lines(self) -> list[str]:
        """The estimate for the terminal."""
        tried, whole = self.tried, self.tried.times(self.num_samples)
        price = f", ${whole.dollars:,.2f}" if whole.dollars else ""
        return [
            f"{tried.num_images:,} samples, {self.num_requests:,} requests in {tried.seconds:.1f} s (loaded)",
            tried.line(),
            f"all of about {self.num_samples:,} samples in {self.num_shards:,} shards: "
            f"{whole.seconds / 3600:,.2f} h here, {whole.hours:,.2f} {whole.device}{price}",
            "a first batch is slower than a full run: it fills and drains once",
        ]


def estimate(job: Job, *, num_tried: int = NUM_TRIED) -> Estimate:
    """Try the first `num_tried` samples of a job and write nothing."""
    provenance = job.provenance()
    task = job.make_task(job.recipe, provenance)
    with interruptible() as stop, Progress(f"{job.layer} --estimate", num_tried) as progress:
        engine = job.open_engine(stop)
        unwritten = LayerWriter(Path(), job.layer, job.source)
        annotator = Annotator(engine, unwritten, task, stop=stop, progress=progress)
        figures = annotator.try_out(job.source.shards, num_tried)
    shards = job.source.shards
    counted = shards[:: max(1, len(shards) // MAX_COUNTED_SHARDS)][:MAX_COUNTED_SHARDS]
    mean = sum(num_samples(shard) for shard in counted) / len(counted)
    share = figures["wanted"] / figures["read"] if figures["read"] else 0.0
    return Estimate(
        tried=cost_of(job.recipe.cost, figures),
        num_samples=round(mean * len(shards) * share),
        num_shards=len(shards),
        num_requests=int(figures["requests"]),
    )
