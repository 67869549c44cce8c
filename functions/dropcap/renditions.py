"""Renditions of a picture: encode each size in each format, then publish them with the texts embedded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dropcap.domain import naming, texts, xmp
from dropcap.domain.analysis import Rendition
from dropcap.domain.embedding import embed
from dropcap.domain.naming import Encoded
from dropcap.domain.upload import Upload
from dropcap.runtime.timeouts import side_by_side
from dropcap.sandbox.answers import log_still
from dropcap.sandbox.client import Picture
from dropcap.sandbox.processes import nonsense
from dropcap.services import Services
from dropcap.settings import Settings
from dropcap.storage import aliases


@dataclass(frozen=True, slots=True)
class Unpublished:
    """A rendition without texts: its label in SIZES, the names of its aliases, and the encoded picture.

    `judged`: it is the one frame of an animation that Gemini judges.
    """

    label: str
    names: list[str]
    picture: Encoded
    judged: bool


def encode(source: Picture, upload: Upload, settings: Settings) -> list[Unpublished]:
    """Return a rendition for each size in the settings, even if the source is smaller, in each format.

    With SAFETY an animation is encoded as its first frame, because Gemini judges one frame.
    """
    animated = settings.animated and source.open_animation()
    judged = bool(animated) and settings.safety != "off"
    layout = (
        settings.layout if upload.in_bucket else "id"
    )  # a posted picture has no object name for an app to rely on
    renditions = []
    for side in settings.sizes:
        label = naming.label(side)
        kinds = naming.kinds(upload.name, layout, label, settings.format, source.facts.format)
        for kind, names in kinds.items():
            moving = animated and not judged and kind == "webp"
            copy = source.encode_animation(side, settings.quality) if moving else None
            copy = copy or source.encode(side, kind, settings.quality)
            renditions.append(Unpublished(label, names, copy, judged))
    return renditions


def publish(
    renditions: Sequence[Unpublished],
    embedded: texts.Texts,
    upload: Upload,
    services: Services,
    existing: Mapping[str, int],
) -> tuple[Rendition, ...]:
    """Write the renditions to the pictures bucket side by side, with their aliases. Return what was written.

    `embedded` are the texts to embed; `existing` are the renditions that earlier deliveries wrote:
    generations by object name. Raises gcs.NotStored if an object is not stored as written.
    """
    settings, buckets = services.settings, services.buckets
    packet = xmp.packet(embedded) if settings.embed_words == "on" else b""

    def write(each: Unpublished) -> Rendition:
        try:
            picture = embed(each.picture, packet)
        except ValueError as wrong:
            raise nonsense() from wrong
        metadata = aliases.metadata_of(upload, each.names)
        rendition = buckets.publish(upload, each.label, picture, existing, metadata)
        aliases.write(buckets, upload, rendition, each.names)
        return rendition

    if any(each.judged for each in renditions):
        log_still("with SAFETY only the frame that was judged is published")
    return tuple(side_by_side(write, renditions, "publish"))
