"""What tasks ask about a sample before a model is asked: whether it is wanted, and its images."""

from PIL import Image

from vila2cli.image import Decode, decode_image
from vila2cli.shards import ShardWriter
from vila2cli.shards.members import NO_IMAGE
from vila2cli.shards.sample import Reject, Sample, is_kept


def passed_filter(out: ShardWriter, sample: Sample) -> bool:
    """Whether the filter layers on top of the shard, if any, keep a sample; any other is left out."""
    if is_kept(sample):
        return True
    out.skip(sample, "filtered")
    return False


def has_one_image(out: ShardWriter, sample: Sample) -> bool:
    """Whether a sample has exactly one image; any other number is rejected."""
    if len(sample.images) == 1:
        return True
    reason = "several-images" if sample.images else NO_IMAGE
    out.reject(Reject(out.name, sample.key, reason, f"the sample has {len(sample.images)} images, not one"))
    return False


def decode_images(
    sample: Sample, decode: Decode = decode_image, *, max_pixels: int, draft: float
) -> tuple[Image.Image, ...]:
    """A sample's images as `decode` makes them; raises DataError for one that cannot be decoded."""
    return tuple(decode(image.data, max_pixels=max_pixels, draft=draft) for image in sample.images)
