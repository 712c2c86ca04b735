"""The images of a sample that a model is shown."""

from PIL import Image

from vila2cli.image import decode_image
from vila2cli.shards import ShardWriter
from vila2cli.shards.members import NO_IMAGE
from vila2cli.shards.sample import Reject, Sample


def has_one_image(out: ShardWriter, sample: Sample) -> bool:
    """Whether a sample has exactly one image; any other number is rejected."""
    if len(sample.images) == 1:
        return True
    reason = "several-images" if sample.images else NO_IMAGE
    out.reject(Reject(out.name, sample.key, reason, f"the sample has {len(sample.images)} images, not one"))
    return False


def decode_images(sample: Sample, *, max_pixels: int) -> tuple[Image.Image, ...]:
    """A sample's images; raises DataError for one that cannot be decoded."""
    return tuple(decode_image(image.data, max_pixels=max_pixels) for image in sample.images)
