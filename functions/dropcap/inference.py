"""Caption a picture while Gemini describes it, and check whether the outputs of both are consistent."""

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

from PIL.Image import Image

from dropcap import logs
from dropcap.captioning import blip
from dropcap.describing.response import NotDescribed
from dropcap.domain import consistency, texts
from dropcap.domain.analysis import Agreement, Caption, Description, Source, Verdict
from dropcap.services import Services
from dropcap.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Captioned:
    """BLIP's caption, or the error because of which it has none; `source` is the record of either."""

    caption: Caption | None
    source: Source
    error: blip.ModelError | None = None


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """Outputs of both models, with the source of each, or the reason why it has none.

    `pending`: Gemini may describe the picture later.
    """

    description: Description | None
    caption: Caption | None
    sources: Mapping[str, Source]
    verdict: Verdict | None
    pending: bool


def caption(raster: Image, services: Services) -> Captioned:
    """Return BLIP's caption of a raster. It uses the CPU, while Gemini's description is waited for."""
    settings = services.settings
    try:
        captioner = services.captioner
        made = captioner.caption(raster, prompt=settings.caption_prompt, beams=settings.caption_beams)
    except blip.ModelError as error:
        logs.once(logger, logging.ERROR, str(error), "captioner_failed")
        return Captioned(None, Source(False, problem=str(error)), error)
    source = Source(
        True,
        made.model,
        made.version,
        confidence=made.confidence,
        low_confidence=made.low_confidence,
        demo=made.demo,
        notice=captioner.card.notice,
        removed=made.removed,
    )
    return Captioned(made, source)


def collect(captioned: Captioned, request: Future[Description], settings: Settings) -> ModelOutputs:
    """Wait for Gemini's response to a request, and return the outputs of both models.

    Raises blip.ModelError if BLIP failed and is required, or if Gemini failed too.
    """
    description = verdict = None
    pending = False
    try:
        description = request.result()
        verdict = description.safety
        gemini = Source(True, description.model, description.version)
    except NotDescribed as error:
        verdict = error.verdict
        if settings.gemini_api_key:  # without a key, only BLIP is wanted
            problem = str(error)
            fields = {"event": "gemini_unavailable", "problem": problem}
            logger.warning("not described by Gemini", extra=fields)
            pending = error.retryable
        gemini = Source(False, settings.gemini_model, problem=str(error))
    if captioned.error and (settings.blip == "required" or description is None):
        raise captioned.error
    sources = {"blip": captioned.source, "gemini": gemini}
    return ModelOutputs(description, captioned.caption, sources, verdict, pending)


def log_fields(sources: Mapping[str, Source]) -> dict[str, dict[str, Any]]:
    """Return which models answered, as a field of a log line, without empty values."""
    return {
        name: {"answered": source.answered} | {key: value for key, value in asdict(source).items() if value}
        for name, source in sources.items()
    }


def check_consistency(outputs: ModelOutputs) -> Agreement | None:
    """Return how far the two models agree; None if one of them has no text that can be trusted.

    Logs a warning if they contradict each other.
    """
    caption = texts.trusted(outputs.caption)
    if not (outputs.description and caption):
        return None
    agreement = consistency.compare(caption.text, outputs.description)
    if agreement.contradicts:
        found = [f"{about}: {claim} or {rival}" for about, claim, rival in agreement.contradictions]
        fields = {"event": "models_contradict", "found": found}
        logger.warning("the two models contradict each other", extra=fields)
    return agreement
