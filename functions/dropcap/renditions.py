"""Write the renditions of a picture to the pictures bucket: each size in each format, texts embedded."""

from collections.abc import Mapping

from dropcap.domain import naming, texts
from dropcap.domain.analysis import Rendition
from dropcap.domain.upload import Upload
from dropcap.imaging import decoding, xmp
from dropcap.services import Services
from dropcap.storage import aliases


def publish(
    source: decoding.Picture,
    data: bytes,
    embedded: texts.Texts,
    upload: Upload,
    services: Services,
    existing: Mapping[str, int],
) -> tuple[Rendition, ...]:
    """Write a rendition for each size in the settings, even if the source is smaller. Return the renditions.

    `data` are the bytes of the source, which animations are decoded from; `embedded` are the texts to embed;
    `existing` are the renditions that earlier deliveries wrote: generations by object name. Raises
    gcs.NotStored if an object is not stored as written.
    """
    settings = services.settings
    animated = None
    if settings.animated:
        from dropcap.imaging import animation

        animated = animation.open_animation(data, source.facts, settings, services.make_room)
    packet = xmp.packet(embedded) if settings.embed_words == "on" else b""
    renditions: list[Rendition] = []
    layout = (
        settings.layout if upload.in_bucket else "id"
    )  # a posted picture has no object name for an app to rely on
    for side in settings.sizes:
        label = naming.label(side)
        kinds = naming.kinds(upload.name, layout, label, settings.format, source.facts.format)
        for kind, names in kinds.items():
            copy = animated.encode(side, settings.quality, packet) if animated and kind == "webp" else None
            copy = copy or source.encode(side, kind, settings.quality, packet)
            size, metadata = (copy.width, copy.height), aliases.metadata_of(upload, names)
            renditions.append(
                services.buckets.publish(
                    upload, label, copy.data, copy.content_type, size, existing, metadata
                )
            )
            aliases.write(services.buckets, upload, renditions[-1], names)
    return tuple(renditions)
