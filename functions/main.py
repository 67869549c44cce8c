"""The entry points that Google Cloud calls; what they do is told in `dropcap/pipeline.py`."""

import flask
import functions_framework

from dropcap.handlers import endpoints, storage_events
from dropcap.http import server
from dropcap.services import start

SERVICES = start()
server.prepare()


@functions_framework.http  # not cloud_event, which parses a body of any size
def on_upload(request: flask.Request) -> flask.Response:
    """Process an upload: POST the CloudEvent google.cloud.storage.object.v1.finalized."""
    return storage_events.receive(request, SERVICES)


@functions_framework.http
def analyze(request: flask.Request) -> flask.Response:
    """POST a picture, or say which object of the uploads bucket; the answer is its analysis."""
    return endpoints.respond(request, "POST", endpoints.analyze, SERVICES)


@functions_framework.http
def get_progress_stats(request: flask.Request) -> flask.Response:
    """GET a user's uploads, streaks and achievements: ?user=ana."""
    return endpoints.respond(request, "GET", endpoints.progress, SERVICES)


@functions_framework.http
def sweep(request: flask.Request) -> flask.Response:
    """POST by a schedule: what no delivery has finished is finished; the answer counts it."""
    return endpoints.respond(request, "POST", endpoints.sweep, SERVICES, operators=True)


@functions_framework.http
def gallery(request: flask.Request) -> flask.Response:
    """The page to drop pictures on, to find them again, and to see how one is doing."""
    from dropcap.gallery.app import respond  # templates, which the other functions do without

    return respond(request, SERVICES)
