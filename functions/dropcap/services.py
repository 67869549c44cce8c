"""The parts that the functions share, made once an instance and only when first needed."""

import gc
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

from dropcap import logs
from dropcap.database.analyses import Analyses
from dropcap.database.connection import DatabaseUnavailable
from dropcap.database.leases import Leases
from dropcap.database.transactions import Database
from dropcap.errors import SchemaError, SettingsError
from dropcap.runtime import memory
from dropcap.settings import Settings

# Functions whose instances caption almost all pictures; a sweep captions one only now and then.
CAPTION = ("on_upload", "analyze")

if TYPE_CHECKING:  # each is imported by the function that needs it: get_progress_stats needs tokens at most
    from dropcap.captioning.blip import Captioner
    from dropcap.describing.gemini import Describer
    from dropcap.http.id_tokens import Tokens
    from dropcap.outbox.dispatcher import Dispatcher
    from dropcap.storage.buckets import Buckets


@dataclass
class Services:
    """Settings and database at once, the heavy parts later; a part that fails is tried again next time."""

    settings: Settings
    database: Database

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

    @property
    def captioner(self) -> "Captioner":
        from dropcap.captioning import blip

        return blip.load(self.settings.model_folder, self.settings.caption_threads)

    def make_room(self) -> None:
        """Let the captioner go, for a picture that needs its memory: the next caption loads it again."""
        from dropcap.captioning import blip

        if blip.unload():
            gc.unfreeze()  # the captioner may have been loaded before the first release
            memory.release()
            logs.write("INFO", "BLIP made room for a picture", rss_mb=round(memory.rss_mb(), 1))


@cache
def start() -> Services:
    """The cold start: settings and schema are checked before the first request.

    A wrong setting or a schema that can't be repaired ends the process with one line that says why. A
    database that does not answer yet is no reason to stop: the first request checks again.
    """
    logs.guard()
    memory.use_one_heap()
    try:
        settings = Settings.read()
        settings.check_start()
        database = Database(settings)
        database.prepare()
    except (SettingsError, SchemaError) as wrong:
        logs.write("CRITICAL", str(wrong), error=type(wrong).__name__)
        sys.exit(1)
    except DatabaseUnavailable as passing:
        logs.write("WARNING", f"{passing} The first request checks the schema.")
    if os.environ.get("FUNCTION_TARGET") in CAPTION:
        _warn_of_demonstration(settings)
    return Services(settings, database)


def _warn_of_demonstration(settings: Settings) -> None:
    """Log the notice of a demonstration model. Its card is read, but no weights and no ONNX Runtime."""
    from dropcap.captioning import blip

    with suppress(blip.ModelError):  # logged with the first picture, which needs the model
        if notice := blip.Card.read(settings.model_folder).notice:
            logs.write("WARNING", notice)
