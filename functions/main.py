"""The entry points that Google Cloud calls. `dropcap/pipeline.py` tells what happens to a picture."""

import flask
import functions_framework

from dropcap.handlers import storage_events
from dropcap.handlers.analyze import analyze_picture
from dropcap.handlers.dispatch import respond
from dropcap.handlers.progress import get_progress
from dropcap.handlers.reconcile import reconcile_uploads
from dropcap.http import server
from dropcap.services import start

SERVICES = start()
server.prepare(SERVICES.warm_up)


@functions_framework.http  # not cloud_event, which parses a body of any size
def on_upload(request: flask.Request) -> flask.Response:
    """Process an upload: POST the CloudEvent google.cloud.storage.object.v1.finalized."""
    return storage_events.receive(request, SERVICES)


@functions_framework.http
def analyze(request: flask.Request) -> flask.Response:
    """Return the analysis of a picture: POST the picture, or name an object of the uploads bucket."""
    return respond(request, "POST", analyze_picture, SERVICES)


@functions_framework.http
def get_progress_stats(request: flask.Request) -> flask.Response:
    """Return a user's uploads, streaks and achievements: GET ?user=ana."""
    return respond(request, "GET", get_progress, SERVICES)


@functions_framework.http
def sweep(request: flask.Request) -> flask.Response:
    """Finish the uploads that no delivery finished, and return their number: POST, on a schedule."""
    return respond(request, "POST", reconcile_uploads, SERVICES, operators=True)


@functions_framework.http
def gallery(request: flask.Request) -> flask.Response:
    """Serve the page to drop pictures on, find them again, and follow one's progress."""
    from dropcap.gallery import app  # loads templates, which the other functions do without

    return app.respond(request, SERVICES)
