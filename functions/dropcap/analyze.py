"""From bytes to analysis: decode, resize, encode and caption while Gemini describes, publish."""

import datetime as dt
import logging
from collections.abc import Mapping
from concurrent.futures import wait
from contextlib import ExitStack
from functools import partial

from dropcap import erasure, inference, logs, renditions
from dropcap.budget import GeminiBudget
from dropcap.describing import moderation
from dropcap.domain import texts
from dropcap.domain.analysis import Analysis, Rendition
from dropcap.domain.body import Body
from dropcap.domain.upload import Upload
from dropcap.renditions import Unpublished
from dropcap.runtime import memory
from dropcap.runtime.timeouts import submit
from dropcap.runtime.turns import Turn
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
    turn: Turn,
    existing: Mapping[str, int] | None = None,
) -> Analysis:
    """Analyze an upload when its turn has begun, and publish its renditions if it is kept.

    The turn ends when nothing is left to do but to wait for networks. `existing` are the renditions of
    earlier deliveries, generations by object name; None for a picture that is not kept. Raises Rejected if
    its body is not a picture that can be processed.
    """
    settings = services.settings
    kept = existing is not None
    with logs.bind_upload(upload.id), ExitStack() as afterwards:
        with watchdog.stage("open"):
            services.wait_until_warm()
            picture = client.open_picture(body, settings, services.make_room)
        with picture:
            budget = GeminiBudget(services, upload.id, body.sha256 if kept else "")
            with watchdog.stage("resize"):
                for_gemini = picture.for_gemini().data
                describe = partial(budget.describe, for_gemini, upload.language or settings.language)
                request = submit(describe, "describe")
                # Also after an error: Gemini charges for its response, and the next delivery uses it.
                afterwards.callback(wait, [request])
                afterwards.callback(turn.end)
                for_blip = picture.raster(BLIP_SIDE)
            unpublished: list[Unpublished] = []
            if kept:
                with watchdog.stage("encode"):
                    unpublished = renditions.encode(picture, upload, settings)
        body.close()
        with watchdog.stage("caption"):
            captioned = inference.caption(for_blip, services)
        del for_blip
        memory.release()
        turn.end()
        with watchdog.stage("describe"):
            outputs = inference.collect(captioned, request, settings)
        verdict = moderation.check(outputs.verdict, settings)
        selected = texts.select(outputs.description, outputs.caption)
        embedded = texts.select(outputs.description, texts.trusted(outputs.caption))
        agreement = inference.check_consistency(outputs)
        published: tuple[Rendition, ...] = ()
        if existing is not None:
            with watchdog.stage("publish"):
                if existing and settings.safety != "off":
                    # A crashed delivery left them, perhaps with other settings. It is unknown which picture
                    # its verdict was about.
                    erasure.unpublish(upload, services.buckets, existing)
                    existing = {}
                published = renditions.publish(unpublished, embedded, upload, services, existing)
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
