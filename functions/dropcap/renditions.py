"""What is written into the pictures bucket: each size in each format, with the picture's words in it."""

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
    """Write each size of the settings; every label exists, even if the source is smaller.

    `data` are the source's bytes, which only animations need again; `embedded` are the words for the files;
    `existing` are the renditions of earlier deliveries. Raises gcs.NotStored if an object is not stored as
    written.
    """
    settings = services.settings
    moving = None
    if settings.animated:
        from dropcap.imaging import animation

        moving = animation.open_animation(data, source.facts, settings, services.make_room)
    packet = xmp.packet(embedded) if settings.embed_words == "on" else b""
    published = []
    layout = settings.layout if upload.in_bucket else "id"  # what is posted has no name that an app knows
    for side in settings.sizes:
        label = naming.label(side)
        kinds = naming.kinds(upload.name, layout, label, settings.format, source.facts.format)
        for kind, names in kinds.items():
            copy = moving.encode(side, settings.quality, packet) if moving and kind == "webp" else None
            copy = copy or source.encode(side, kind, settings.quality, packet)
            size, metadata = (copy.width, copy.height), aliases.metadata_of(upload, names)
            published.append(
                services.buckets.publish(
                    upload, label, copy.data, copy.content_type, size, existing, metadata
                )
            )
            aliases.write(services.buckets, upload, published[-1], names)
    return tuple(published)
