"""A consumer of Dropcap's events: it believes what is signed, and acts once on each, however often it comes.

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
TOLERANCE_S = 300  # what is older may be somebody's copy
LONGEST = 1_000_000  # bytes


def genuine(headers: Message, body: bytes) -> bool:
    """Whether who signed it has our key, and just now (standardwebhooks.com)."""
    id, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not at.isdecimal() or abs(time.time() - int(at)) > TOLERANCE_S:
        return False
    digest = hmac.digest(KEY, f"{id}.{at}.".encode() + body, hashlib.sha256)
    due = f"v1,{base64.b64encode(digest).decode()}".encode()
    given = headers.get("webhook-signature", "").encode().split()
    return any([hmac.compare_digest(each, due) for each in given])


def act(event: Mapping[str, Any]) -> None:
    """Whatever an event is for, in the transaction that remembers it."""
    data = event["data"]
    said = data.get("caption", data.get("problem"))
    DATABASE.execute("INSERT INTO done VALUES (?, ?, ?)", (event["type"], data["id"], said))


class Consumer(BaseHTTPRequestHandler):
    timeout = 10

    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers.get("Content-Length", "0")), LONGEST))
        if not genuine(self.headers, body):
            self._answer(401)
            return
        event = json.loads(body)
        with DATABASE:  # one transaction: what is not acted on is not remembered
            if DATABASE.execute("INSERT OR IGNORE INTO seen VALUES (?)", (event["id"],)).rowcount:
                act(event)
        self._answer(204)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()


if __name__ == "__main__":
    with DATABASE:
        DATABASE.execute("CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY)")
        DATABASE.execute("CREATE TABLE IF NOT EXISTS done (type TEXT, upload TEXT, said TEXT)")
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Consumer).serve_forever()
