"""Write the renditions of a picture to the pictures bucket: each size in each format, texts embedded."""

from collections.abc import Mapping

from dropcap.domain import naming, texts, xmp
from dropcap.domain.analysis import Rendition
from dropcap.domain.upload import Upload
from dropcap.sandbox.answers import log_still
from dropcap.sandbox.client import Picture
from dropcap.services import Services
from dropcap.storage import aliases


def publish(
    source: Picture,
    embedded: texts.Texts,
    upload: Upload,
    services: Services,
    existing: Mapping[str, int],
) -> tuple[Rendition, ...]:
    """Write a rendition for each size in the settings, even if the source is smaller. Return the renditions.

    `embedded` are the texts to embed; `existing` are the renditions that earlier deliveries wrote:
    generations by object name. With SAFETY an animation is published as its first frame, because Gemini
    judges one frame. Raises gcs.NotStored if an object is not stored as written.
    """
    settings = services.settings
    animated = settings.animated and source.open_animation()
    if animated and settings.safety != "off":
        log_still("with SAFETY only the frame that was judged is published")
        animated = False
    packet = xmp.packet(embedded) if settings.embed_words == "on" else b""
    renditions: list[Rendition] = []
    layout = (
        settings.layout if upload.in_bucket else "id"
    )  # a posted picture has no object name for an app to rely on
    for side in settings.sizes:
        label = naming.label(side)
        kinds = naming.kinds(upload.name, layout, label, settings.format, source.facts.format)
        for kind, names in kinds.items():
            moving = animated and kind == "webp"
            copy = source.encode_animation(side, settings.quality, packet) if moving else None
            copy = copy or source.encode(side, kind, settings.quality, packet)
            size, metadata = (copy.width, copy.height), aliases.metadata_of(upload, names)
            renditions.append(
                services.buckets.publish(
                    upload, label, copy.data, copy.content_type, size, existing, metadata
                )
            )
            aliases.write(services.buckets, upload, renditions[-1], names)
    return tuple(renditions)
