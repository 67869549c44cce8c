"""A consumer of Dropcap's events: verifies the signature, and handles each event once.

EVENTS_SECRET=whsec_... python docs/reference/consumer.py 8090
"""

import base64
import hashlib
import hmac
import json
import os
import sqlite3
import sys
import time
from collections.abc import Mapping
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

KEY = base64.b64decode(os.environ["EVENTS_SECRET"].removeprefix("whsec_"))
DATABASE = sqlite3.connect(os.environ.get("CONSUMER_STATE", "consumer.sqlite"))
TOLERANCE_S = 300  # older requests may be replayed
LONGEST = 1_000_000  # bytes


def genuine(headers: Message, body: bytes) -> bool:
    """Return whether the body was signed with our key in the last minutes (standardwebhooks.com)."""
    id, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not at.isdecimal() or abs(time.time() - int(at)) > TOLERANCE_S:
        return False
    digest = hmac.digest(KEY, f"{id}.{at}.".encode() + body, hashlib.sha256)
    expected = f"v1,{base64.b64encode(digest).decode()}".encode()
    signatures = headers.get("webhook-signature", "").encode().split()
    return any([hmac.compare_digest(each, expected) for each in signatures])


def handle(event: Mapping[str, Any]) -> None:
    """Handle an event, in the transaction that records its id."""
    data = event["data"]
    text = data.get("caption", data.get("problem"))
    DATABASE.execute("INSERT INTO handled VALUES (?, ?, ?)", (event["type"], data["id"], text))


class Consumer(BaseHTTPRequestHandler):
    timeout = 10

    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers.get("Content-Length", "0")), LONGEST))
        if not genuine(self.headers, body):
            self._answer(401)
            return
        event = json.loads(body)
        with DATABASE:  # one transaction: an id is recorded only if its event is handled
            if DATABASE.execute("INSERT OR IGNORE INTO received VALUES (?)", (event["id"],)).rowcount:
                handle(event)
        self._answer(204)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()


if __name__ == "__main__":
    with DATABASE:
        DATABASE.execute("CREATE TABLE IF NOT EXISTS received (id TEXT PRIMARY KEY)")
        DATABASE.execute("CREATE TABLE IF NOT EXISTS handled (type TEXT, upload TEXT, text TEXT)")
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Consumer).serve_forever()
