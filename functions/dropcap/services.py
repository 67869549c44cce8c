"""Composition root: the services that the functions share, each created once per instance, on first use."""

import gc
import importlib
import logging
import os
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING

from dropcap import logs
from dropcap.database.analyses import Analyses
from dropcap.database.connection import DatabaseUnavailable
from dropcap.database.leases import Leases
from dropcap.database.transactions import Database
from dropcap.errors import SchemaError, SettingsError
from dropcap.runtime import memory
from dropcap.runtime.timeouts import submit
from dropcap.runtime.turns import Turns
from dropcap.settings import Settings

logger = logging.getLogger(__name__)

# The functions that caption almost all pictures; `sweep` and `gallery` rarely or never load the model.
CAPTION = ("on_upload", "analyze")
ALONE = 0.3  # of LEASE_S, which a stage may take: how long a picture waits for the memory of others

if TYPE_CHECKING:  # imported when first needed: get_progress_stats needs none but Tokens
    from dropcap.captioning.blip import Captioner
    from dropcap.describing.gemini import Describer
    from dropcap.http.id_tokens import Tokens
    from dropcap.outbox.dispatcher import Dispatcher
    from dropcap.storage.buckets import Buckets


@dataclass
class Services:
    """Settings and database, and the other services on first use. One that fails is created again later."""

    settings: Settings
    database: Database
    _warming: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def turns(self) -> Turns:
        return Turns()

    @cached_property
    def leases(self) -> Leases:
        return Leases(self.database)

    @cached_property
    def analyses(self) -> Analyses:
        return Analyses(self.database)

    @cached_property
    def tokens(self) -> "Tokens":
        from dropcap.http.id_tokens import Tokens

        return Tokens(self.settings)

    @cached_property
    def buckets(self) -> "Buckets":
        from dropcap.storage.buckets import Buckets

        return Buckets(self.settings)

    @cached_property
    def describer(self) -> "Describer":
        from dropcap.describing.gemini import Describer

        return Describer(self.settings)

    @cached_property
    def dispatcher(self) -> "Dispatcher":
        from dropcap.outbox.dispatcher import Dispatcher

        return Dispatcher(self.settings, self.database)

    def warm_up(self) -> None:
        """Load what the first picture needs, where one is likely, while its upload is looked up and read.

        An instance has a second vCPU while it starts. Gemini's package is loaded before the picture is
        decoded, so that its request need not wait for it. Errors are left to the picture, which reports them.
        """
        if os.environ.get("FUNCTION_TARGET") not in CAPTION:
            return
        from dropcap.describing.gemini import ADAPTERS
        from dropcap.sandbox import processes

        submit(processes.start, "fork server")
        with self._warming, suppress(Exception):
            self.captioner  # noqa: B018  loads it
        with suppress(Exception):
            if self.settings.gemini_api_key:
                importlib.import_module(ADAPTERS[self.settings.gemini_sdk])
            importlib.import_module("google.cloud.storage")

    def wait_until_warm(self) -> None:
        """Wait for the end of `warm_up`: memory that it is still to take would not count as used."""
        with self._warming:
            pass

    @property
    def captioner(self) -> "Captioner":
        from dropcap.captioning import blip

        return blip.load(self.settings.model_folder, self.settings.caption_threads)

    def make_room(self) -> None:
        """Free memory for a picture that needs it: unload the captioner, and wait for the other pictures.

        The next caption loads the captioner again. Raises NotDecoded if other pictures still hold memory.
        """
        from dropcap.captioning import blip

        if blip.unload():
            gc.unfreeze()  # the captioner may have been loaded before the first release
            memory.release()
            logger.info(
                "BLIP made room for a picture",
                extra={"event": "captioner_unloaded", "rss_mb": round(memory.rss_mb(), 1)},
            )
        self.turns.wait_alone(self.settings.lease_s * ALONE)


@cache
def start() -> Services:
    """Return the services of this instance, after checking settings and schema, before the first request.

    An invalid setting, or a schema that can't be repaired, ends the process with one line that gives the
    reason. If the database is unavailable, the first request checks the schema.
    """
    logs.configure()
    memory.use_one_heap()
    try:
        settings = Settings.read()
        settings.check_start()
        database = Database(settings)
        database.prepare()
    except (SettingsError, SchemaError) as error:
        logger.critical(str(error), extra={"event": "setup_refused", "error": type(error).__name__})
        sys.exit(1)
    except DatabaseUnavailable as error:
        logger.warning(
            f"{error} The first request checks the schema.", extra={"event": "database_unavailable"}
        )
    if os.environ.get("FUNCTION_TARGET") in CAPTION:
        _warn_of_demonstration(settings)
    return Services(settings, database)


def _warn_of_demonstration(settings: Settings) -> None:
    """Log the notice of a demonstration model. Reads the card, and loads neither weights nor ONNX Runtime."""
    from dropcap.captioning import blip

    with suppress(blip.ModelError):  # logged with the first picture, which needs the model
        if notice := blip.Card.read(settings.model_folder).notice:
            logger.warning(notice, extra={"event": "demonstration_model_used"})
