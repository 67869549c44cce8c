"""The five functions in one process, under the real functions-framework and its own HTTP server.

    POST /                          on_upload             (CloudEvents)
    GET  /                          leads to the gallery
    POST /analyze                   analyze
    GET  /get_progress_stats        get_progress_stats
    POST /sweep                     sweep
    any  /gallery/...               gallery

On Google Cloud each is a separate service; here they share a port. Settings come from the environment.
"""

import argparse
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask
from functions_framework import create_app
from functions_framework._http import create_server
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.utils import redirect

from infra import ROOT
from infra.local import YOU

SOURCE = str(ROOT / "functions" / "main.py")
STOP_S = 3  # grace period for pictures in progress when the stack stops; the next start processes the rest


def application() -> Flask:
    """Return the application of `on_upload`, with the others mounted under their names."""
    app: Flask = create_app("on_upload", SOURCE, "cloudevent")
    others = {
        f"/{target}": _whole_path(create_app(target, SOURCE, "http"))
        for target in ("analyze", "get_progress_stats", "sweep", "gallery")
    }
    app.wsgi_app = DispatcherMiddleware(_with_front_page(app.wsgi_app), others)  # type: ignore[method-assign]  # Flask's own way
    return app


def _with_front_page(function: WSGIApplication) -> WSGIApplication:
    """Return the function with a redirect to the gallery for a browser; events are posted."""

    def serve(environment: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environment["PATH_INFO"] == "/" and environment["REQUEST_METHOD"] in ("GET", "HEAD"):
            return redirect(f"/gallery/?user={YOU}")(environment, start_response)
        return function(environment, start_response)

    return serve


def _whole_path(function: Flask) -> WSGIApplication:
    """Return the function with its full request path: below a prefix, Flask would serve `/static/` itself."""

    def serve(environment: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environment["PATH_INFO"] = environment["SCRIPT_NAME"] + environment["PATH_INFO"]
        environment["SCRIPT_NAME"] = ""
        return function(environment, start_response)

    return serve


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m infra.local.functions", description="Serve the five functions."
    )
    parser.add_argument("--port", type=int, default=8080, help="port of 127.0.0.1 (%(default)s)")
    port = parser.parse_args().port
    create_server(application(), debug=False, graceful_timeout=STOP_S).run("127.0.0.1", port)


if __name__ == "__main__":
    main()
