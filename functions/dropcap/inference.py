"""Run both models on a picture concurrently, and check whether their outputs are consistent."""

import logging
from collections.abc import Mapping
from concurrent.futures import wait
from dataclasses import asdict, dataclass
from typing import Any

from PIL.Image import Image

from dropcap import logs
from dropcap.budget import GeminiBudget
from dropcap.captioning import blip
from dropcap.describing.response import NotDescribed
from dropcap.domain import consistency, texts
from dropcap.domain.analysis import Agreement, Caption, Description, Source, Verdict
from dropcap.domain.upload import Upload
from dropcap.runtime.timeouts import submit
from dropcap.services import Services

logger = logging.getLogger(__name__)


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


def run_models(
    upload: Upload, for_gemini: bytes, for_blip: Image, services: Services, budget: GeminiBudget
) -> ModelOutputs:
    """Return the outputs of Gemini, which waits for the network, and of BLIP, which uses the CPU meanwhile.

    Raises blip.ModelError if BLIP fails and is required, or if Gemini fails too.
    """
    settings = services.settings
    sources = {}
    description = caption = model_error = verdict = None
    pending = False
    language = upload.language or settings.language
    request = submit(lambda: budget.describe(for_gemini, language), "describe")
    try:
        captioner = services.captioner
        caption = captioner.caption(for_blip, prompt=settings.caption_prompt, beams=settings.caption_beams)
        sources["blip"] = Source(
            True,
            caption.model,
            caption.version,
            confidence=caption.confidence,
            low_confidence=caption.low_confidence,
            demo=caption.demo,
            notice=captioner.card.notice,
            removed=caption.removed,
        )
    except blip.ModelError as error:
        model_error = error
        logs.once(logger, logging.ERROR, str(error), "captioner_failed")
        sources["blip"] = Source(False, problem=str(error))
    finally:
        wait([request])
    try:
        description = request.result()
        verdict = description.safety
        sources["gemini"] = Source(True, description.model, description.version)
    except NotDescribed as error:
        verdict = error.verdict
        if settings.gemini_api_key:  # without a key, only BLIP is wanted
            problem = str(error)
            fields = {"event": "gemini_unavailable", "problem": problem}
            logger.warning("not described by Gemini", extra=fields)
            pending = error.retryable
        sources["gemini"] = Source(False, settings.gemini_model, problem=str(error))
    if model_error and (settings.blip == "required" or description is None):
        raise model_error
    return ModelOutputs(description, caption, sources, verdict, pending)


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
