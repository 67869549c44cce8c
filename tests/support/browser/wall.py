"""What hangs on a guest's wall: put there beside the pipeline, as most pages do not care how it came."""

import base64
import hashlib
import io
import json
import uuid
from contextlib import closing
from dataclasses import asdict
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from PIL import Image
from playwright.sync_api import Page

from dropcap.database.connection import connect_to_schema
from dropcap.domain.analysis import Source
from tests.support.browser.browser import Guest

MEMORY = {"claim": 101.0, "read": 102.0, "open": 150.4, "caption": 410.6, "publish": 180.0}
INSERT = """
INSERT INTO analyses (id, user_id, analyzed_at, caption, description, alt_text, tags, picture_text,
                      format, bytes, width, height, result)
SELECT id, :user, now() - ago * interval '1 minute', caption, description, alt_text, tags, text,
       'JPEG', 57000, 600, 400, result
FROM json_to_recordset(CAST(:rows AS json)) AS r (
  id uuid, ago int, caption text, description text, alt_text text, tags text[], text text, result jsonb
)
"""
UPLOAD = """
INSERT INTO uploads (id, bucket, name, generation, user_id, state)
SELECT id, 'dropcap-uploads', result->'upload'->>'name', 1, user_id, 'done'
FROM analyses WHERE user_id = :user
ON CONFLICT (id) DO UPDATE SET state = 'done'
"""
ACQUIRE = """
INSERT INTO uploads (id, bucket, name, generation, user_id, stage, rss_mb, lease_until)
VALUES (CAST(:id AS uuid), 'dropcap-uploads', :name, 1, :user, :stage, 150, now() + interval '1 minute')
ON CONFLICT (id) DO UPDATE SET stage = excluded.stage
"""
REJECT = """
INSERT INTO uploads (id, bucket, name, generation, user_id, state, reason_code, reason)
VALUES (CAST(:id AS uuid), 'dropcap-uploads', :name, 1, :user, 'done', 'unsupported_format',
        'The upload is a PDF file, which is not supported. Save it as JPEG.')
"""


def demonstration(caption: str) -> dict[str, Any]:
    """Insert a picture with the caption of a demonstration model."""
    texts = ["caption"]
    blip = Source(
        True, "scenes", "1", confidence=-0.25, demo=True, notice="demonstration: `make model` helps"
    )
    result = {"sources": {"blip": asdict(blip)}, "provenance": {"blip": {"texts": texts}}}
    return {"caption": caption, "result": result}


def hang(guest: Guest, *cards: dict[str, Any], published: bool = True) -> list[str]:
    """Put pictures on the guest's wall, the first one newest; their ids."""
    pictures = [_published(guest, side) for side in (600, 200)] if published else []
    rows: list[dict[str, Any]] = []
    for ago, card in enumerate(cards):
        usual = {
            "id": str(uuid.uuid4()),
            "ago": ago,
            "description": "",
            "alt_text": "",
            "tags": [],
            "text": "",
        }
        upload = {
            "bucket": "dropcap-uploads",
            "name": f"{guest.user}/{card.get('name', 'a.jpg')}",
            "generation": 1,
        }
        result = {
            "upload": upload,
            "pictures": pictures,
            "memory": MEMORY,
            "timings": dict.fromkeys(MEMORY, 0.5),
        }
        rows.append(usual | card | {"result": result | card.get("result", {})})
    with closing(connect_to_schema(guest.site.database_url)) as connection:
        connection.run(INSERT, user=guest.user, rows=json.dumps(rows))
        connection.run(UPLOAD, user=guest.user)
    return [row["id"] for row in rows]


def _published(guest: Guest, width: int) -> dict[str, Any]:
    out = io.BytesIO()
    Image.new("RGB", (width, width * 2 // 3), "teal").save(out, "WEBP")
    data, name = out.getvalue(), f"{guest.user}/{width}.webp"
    endpoint = {"api_endpoint": guest.site.storage_url}
    client = Client("dropcap-local", AnonymousCredentials(), client_options=endpoint)
    client.bucket("dropcap-pictures").blob(name).upload_from_string(data, "image/webp")
    md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    sides = {"width": width, "height": width * 2 // 3, "bytes": len(data)}
    return {"label": str(width), "object": name, "content_type": "image/webp", "md5": md5} | sides


def reject(guest: Guest, name: str) -> str:
    """Insert a rejected upload of the guest, and return its id."""
    id = str(uuid.uuid4())
    with closing(connect_to_schema(guest.site.database_url)) as connection:
        connection.run(REJECT, id=id, name=f"{guest.user}/{name}", user=guest.user)
    return id


def acquire(guest: Guest, name: str, stage: str, id: str = "") -> str:
    """Insert an upload of the guest that a worker processes, or set its next stage; return its id."""
    id = id or str(uuid.uuid4())
    with closing(connect_to_schema(guest.site.database_url)) as connection:
        connection.run(ACQUIRE, id=id, name=f"{guest.user}/{name}", user=guest.user, stage=stage)
    return id


def captions(page: Page) -> list[str]:
    return [text.strip() for text in page.locator("#wall .caption").all_text_contents()]


def numbered(number: int) -> list[dict[str, Any]]:
    return [{"caption": f"picture {each}"} for each in range(number)]
