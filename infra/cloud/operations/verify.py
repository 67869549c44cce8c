"""`make verify`: process one sample picture end to end."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from dropcap.domain.analysis import Source
from dropcap.domain.records import read
from dropcap.domain.upload import Upload
from dropcap.settings import Settings
from dropcap.storage import metadata
from infra import ROOT
from infra.cloud import CloudError
from infra.cloud.config import Config
from infra.cloud.gcloud.command import Gcloud
from infra.cloud.inventory import Cloud
from infra.cloud.operations import after, gallery
from infra.cloud.resources import functions
from infra.text import plural

SAMPLE = ROOT / "infra" / "samples" / "garden.jpg"
POLL_S = 2.0
# The message is that of revisions from before event ids, which make rollback may have brought back.
ANALYZED = '(jsonPayload.event="picture_analyzed" OR jsonPayload.message="analyzed")'
LOG_S = 60.0  # longest wait for a log line, which usually takes seconds


def verify(console: Console, config: Config, cloud: Cloud) -> None:
    """Upload a sample and wait for its result. Raises CloudError if it is not published in time."""
    gcloud, settings = cloud.gcloud, _deployed(config, cloud)
    name = f"dropcap-verify/{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.jpg"
    upload = Upload(settings.uploads_bucket, name, 0, SAMPLE.stat().st_size)
    if not upload.wanted(settings.include, settings.exclude):
        raise CloudError(f"INCLUDE and EXCLUDE leave out {name}: allow dropcap-verify/* for make verify.")
    begun = time.monotonic()
    upload = _drop(gcloud, upload, SAMPLE)
    console.print(f"Dropped gs://{upload.bucket}/{upload.name}", soft_wrap=True)
    patience = float(config.wait_s or 180)
    published = f"gs://{settings.pictures_bucket}/{upload.id}/"
    while (passed := time.monotonic() - begun) < patience:
        if kept := gcloud.listed(f"gs://{settings.quarantine_bucket}/{upload.id}/**"):
            facts = gcloud.read("storage", "objects", "describe", kept[0]).get("custom_fields") or {}
            facts = {name.removeprefix(metadata.OURS): fact for name, fact in facts.items()}
            raise CloudError(
                f"The sample was quarantined after {passed:.0f} s, as {facts.get('reason', 'unknown')}: "
                f"{facts.get('problem', '')} {facts.get('remedy', '')} {_where(config)}"
            )
        gone = settings.source == "keep" or not gcloud.listed(f"gs://{upload.bucket}/{upload.name}")
        if gone and (pictures := gcloud.listed(f"{published}**")):
            for each in pictures:
                console.print(f"  {each}", soft_wrap=True)
            source = "kept" if settings.source == "keep" else "gone"
            number = plural(len(pictures), "picture")
            console.print(f"It works: {number} published after {passed:.0f} s, source {source}.")
            for line in answers(config, gcloud, upload):
                console.print(line, markup=False, soft_wrap=True)
            if gallery_status := gallery.verify(config, cloud, patience):
                console.print(gallery_status, soft_wrap=True)
            return
        time.sleep(POLL_S)
    for line in after.entries(config, gcloud, "on-upload", "WARNING", "10m", "5"):
        console.print(line, markup=False, soft_wrap=True)
    raise CloudError(f"There was no result after {patience:.0f} s. {_where(config)}")


def answers(config: Config, gcloud: Gcloud, upload: Upload) -> list[str]:
    """Return lines about the models that answered, from the log line of the analysis."""
    try:
        query = f'{ANALYZED} AND jsonPayload.upload="{upload.id}"'
        payload = after.await_payload(gcloud, query, LOG_S)
    except CloudError as refused:
        return [f"It is not known which models answered, as the log can't be read: {refused}"]
    if payload is None:
        return [f"The log does not show yet which models answered: make logs PROJECT={config.project}"]
    if not (sources := payload.get("sources")):
        return ["The deployed version does not log which models answered."]
    blip, gemini = (read(Source, sources.get(name)) for name in ("blip", "gemini"))
    return [*_captioner(blip), _gemini(gemini)]


def _captioner(blip: Source) -> Iterator[str]:
    """Return the lines about BLIP: its model, or why there is no caption."""
    if not blip.answered:
        yield f"BLIP did not answer: {blip.problem}"
        return
    unsure = ", with low confidence" if blip.low_confidence else ""
    yield f"BLIP answered: {blip.model}, revision {blip.version}{unsure}"
    if blip.demo:
        yield blip.notice


def _gemini(gemini: Source) -> str:
    if not gemini.answered:
        return f"Gemini did not answer: {gemini.problem}"
    return f"Gemini answered: {gemini.model}, version {gemini.version}"


def _deployed(config: Config, cloud: Cloud) -> Settings:
    """Return the settings of the deployed on-upload. Raises CloudError if there is none."""
    if (service := cloud.services.get("dropcap-on-upload")) is None:
        raise CloudError(f"Nothing is deployed in {config.region}: make deploy PROJECT={config.project}")
    return functions.settings(service)


def _drop(gcloud: Gcloud, upload: Upload, file: Path) -> Upload:
    """Upload the file; return it with the generation that gcloud prints, as it may be deleted at once."""
    to = f"gs://{upload.bucket}/{upload.name}"
    printed = gcloud.output("storage", "cp", str(file), to, "--print-created-message")
    if not (found := re.search(re.escape(to) + r"#(\d+)", printed)):
        raise CloudError(f"gcloud did not print the generation of {to}: {printed.strip()[-200:]}")
    return Upload(upload.bucket, upload.name, int(found[1]), upload.size)


def _where(config: Config) -> str:
    return f"See: make logs PROJECT={config.project} FUNCTION=on-upload SEVERITY=WARNING"
