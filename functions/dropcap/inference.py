"""Both models look at a picture, side by side, and what one says is held against the other's words."""

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
    """What the models say, and why one says nothing. `pending`: Gemini may do so on another day."""

    description: Description | None
    caption: Caption | None
    sources: Mapping[str, Source]
    verdict: Verdict | None
    pending: bool


def run_models(
    upload: Upload, for_gemini: bytes, for_blip: Image, services: Services, budget: GeminiBudget
) -> ModelOutputs:
    """Ask both at once, as one waits for the network and the other for the CPU.

    Raises blip.ModelError where BLIP fails and is required, or Gemini failed too.
    """
    settings = services.settings
    sources = {}
    description = caption = model_error = verdict = None
    pending = False
    language = upload.language or settings.language
    asked = submit(lambda: budget.describe(for_gemini, language), "describe")
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
    except blip.ModelError as failed:
        model_error = failed
        logs.once(logger, logging.ERROR, str(failed), "captioner_failed")
        sources["blip"] = Source(False, problem=str(failed))
    finally:
        wait([asked])
    try:
        description = asked.result()
        verdict = description.safety
        sources["gemini"] = Source(True, description.model, description.version)
    except NotDescribed as unavailable:
        verdict = unavailable.verdict
        if settings.gemini_api_key:  # without one, BLIP alone is what was chosen
            problem = str(unavailable)
            logger.warning(
                "not described by Gemini", extra={"event": "gemini_unavailable", "problem": problem}
            )
            pending = unavailable.retryable
        sources["gemini"] = Source(False, settings.gemini_model, problem=str(unavailable))
    if model_error and (settings.blip == "required" or description is None):
        raise model_error
    return ModelOutputs(description, caption, sources, verdict, pending)


def log_fields(sources: Mapping[str, Source]) -> dict[str, dict[str, Any]]:
    """Return which models answered, for the log; what is empty is left out."""
    return {
        name: {"answered": source.answered} | {key: value for key, value in asdict(source).items() if value}
        for name, source in sources.items()
    }


def check_consistency(upload: Upload, outputs: ModelOutputs) -> Agreement | None:
    """Return how far the two models agree; None where one of them gave no words that can be trusted."""
    caption = texts.trusted(outputs.caption)
    if not (outputs.description and caption):
        return None
    agreement = consistency.compare(caption.text, outputs.description)
    if agreement.contradicts:
        found = [f"{about}: {said} or {shown}" for about, said, shown in agreement.contradictions]
        logger.warning(
            "the two models contradict each other", extra={"event": "models_contradict", "found": found}
        )
    return agreement
