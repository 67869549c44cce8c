"""From bytes to analysis: decode, resize, describe beside caption, publish the renditions."""

import datetime as dt
import logging
from collections.abc import Mapping

from dropcap import erasure, inference, logs, renditions
from dropcap.budget import GeminiBudget
from dropcap.describing import moderation
from dropcap.domain import texts
from dropcap.domain.analysis import Analysis, Rendition
from dropcap.domain.body import Body
from dropcap.domain.upload import Upload
from dropcap.runtime import memory
from dropcap.runtime.watchdog import Watchdog
from dropcap.sandbox import client
from dropcap.services import Services
from dropcap.settings import BLIP_SIDE

logger = logging.getLogger(__name__)


def analyze(
    body: Body,
    upload: Upload,
    services: Services,
    watchdog: Watchdog,
    existing: Mapping[str, int] | None = None,
) -> Analysis:
    """Analyze an upload, and publish its renditions if it is kept.

    `existing` are the renditions of earlier deliveries, generations by object name; None for a picture that
    is not kept. Raises Rejected if its body is not a picture that can be processed.
    """
    settings = services.settings
    with logs.bind_upload(upload.id), memory.heavy_work_lock:
        with watchdog.stage("open"):
            services.wait_until_warm()
            picture = client.open_picture(body, settings, services.make_room)
        with picture:
            with watchdog.stage("resize"):
                for_gemini = picture.for_gemini().data
                for_blip = picture.raster(BLIP_SIDE)
            budget = GeminiBudget(services, upload.id, "" if existing is None else body.sha256)
            with watchdog.stage("describe and caption"):
                outputs = inference.run_models(upload, for_gemini, for_blip, services, budget)
            verdict = moderation.check(outputs.verdict, settings)
            selected = texts.select(outputs.description, outputs.caption)
            embedded = texts.select(outputs.description, texts.trusted(outputs.caption))
            agreement = inference.check_consistency(outputs)
            del for_gemini, for_blip
            with watchdog.stage("publish"):
                published: tuple[Rendition, ...] = ()
                if existing and settings.safety != "off":
                    # A crashed delivery left them, perhaps with other settings. It is unknown which picture
                    # its verdict was about.
                    erasure.unpublish(upload, services.buckets, existing)
                    existing = {}
                if existing is not None:
                    published = renditions.publish(picture, embedded, upload, services, existing)
        memory.release()
        usage = budget.usage(sum(watchdog.timings.values()))
        rss_mb = round(memory.rss_mb(), 1)
        facts = {"sources": inference.log_fields(outputs.sources), **budget.log_fields(usage)}
        logger.info("analyzed", extra={"event": "picture_analyzed", "rss_mb": rss_mb, **facts})
    at = dt.datetime.now(dt.UTC)
    return Analysis(
        id=upload.id,
        upload=upload.to_json(),
        user=upload.user,
        analyzed_at=at,
        time_zone=upload.time_zone,
        picture=picture.facts,
        caption=selected.caption,
        description=selected.description,
        alt_text=selected.alt_text,
        tags=selected.tags,
        text=selected.text,
        sources=outputs.sources,
        pictures=published,
        agreement=agreement,
        language=selected.language,
        named_language=upload.language,
        captions=texts.captions(outputs.description, outputs.caption),
        safety=verdict,
        provenance=texts.provenance(outputs.description, outputs.caption, at, settings.caption_prompt),
        describe_later=outputs.pending and bool(published),
        usage=usage,
        memory=dict(watchdog.memory),
        timings=dict(watchdog.timings),
    )
