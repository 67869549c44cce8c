"""Events, requests, settings and XMP, and what a decoder's process may answer: each check raises what must
not happen.

What has several fields is read from one byte string: fields are separated by FIELD, which no UTF-8 has.
"""

import io
import json
from contextlib import suppress
from dataclasses import fields
from typing import Any
from xml.etree import ElementTree

import flask
from PIL import Image
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge
from werkzeug.test import EnvironBuilder

from dropcap import database_url
from dropcap.domain import upload, xmp
from dropcap.domain.embedding import embed
from dropcap.domain.texts import Texts
from dropcap.errors import Rejected, SettingsError
from dropcap.http import bodies
from dropcap.imaging import decoding
from dropcap.settings import Settings

FIELD = b"\xff\xfe"
MOST = 100_000  # bytes of a form
SAYS = ("is ", "has ")  # how the message of a body begins, after "the body"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
DC, IPTC = "{http://purl.org/dc/elements/1.1/}", "{http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/}"
WAYS = ("webp", "jpeg", "png")  # AVIF takes a hundred times as long
SECRET = "verySecret7391"  # noqa: S105
PARSERS = [(each.name, each.metadata["parser"]) for each in fields(Settings) if "parser" in each.metadata]


def _split(data: bytes, count: int) -> list[bytes]:
    """Return the fields, as many as asked for."""
    parts = data.split(FIELD, count - 1)
    return parts + [b""] * (count - len(parts))


def _text(data: bytes) -> str:
    """Return any text, with lone surrogates for bytes that are not UTF-8, as JSON may hold them."""
    return data.decode("utf-8", "surrogateescape")


def _check_texts(values: dict[str, str]) -> None:
    for name, value in values.items():
        assert isinstance(name, str), name
        assert isinstance(value, str), value


def check_event(data: bytes) -> None:
    """Check an event in binary and in structured mode, up to the upload that it describes."""
    head, body = _split(data, 2)
    structured = head.startswith(b"s")
    kind = bodies.STRUCTURED if structured else "application/json"
    headers = {f"ce-{name}": "x" for name in bodies.ATTRIBUTES}
    request = _request(body, kind, headers=headers)
    try:
        event = bodies.event(request)
    except ValueError as wrong:
        assert str(wrong).startswith(SAYS), wrong
        return
    assert isinstance(event.type, str)
    _check_upload(event.data)


def _check_upload(data: Any) -> None:
    try:
        found = upload.from_event(data)
    except Rejected:
        return
    assert isinstance(found.user, str)
    assert 0 < found.generation <= upload.INT64
    assert upload.is_object(found.name)
    assert found.language is None or upload.language_tag(found.language) == found.language
    assert found.time_zone is None or found.time_zone
    found.wanted(("*",), ("[a]*", "*.tmp"))
    if found.bucket.isascii():  # the handler ignores buckets that are not the uploads bucket
        assert found.id.version == 5
    json.dumps(found.to_json())


def _request(body: bytes, kind: str, query: bytes = b"", **more: Any) -> flask.Request:
    builder = EnvironBuilder(method="POST", input_stream=io.BytesIO(body), content_length=len(body), **more)
    environ = builder.get_environ()
    environ["CONTENT_TYPE"], environ["QUERY_STRING"] = kind, query.decode("latin-1")
    return flask.Request(environ)


def check_request(data: bytes) -> None:
    """Check a JSON request, a form and a query."""
    kind, query, body = _split(data, 3)
    if kind.startswith(b"f"):
        boundary = b"multipart/form-data; boundary=" + kind[1:].strip(b"\0\r\n\t ")
        request = _request(body, boundary.decode("latin-1"), query)
        try:
            bodies.check_query(request)
            options, file = bodies.form(request, MOST)
        except (Rejected, BadRequest, RequestEntityTooLarge):
            return
        _check_texts(options)
        assert len(file.read()) <= len(body)
    else:
        request = _request(body, "application/json", query)
        with suppress(Rejected, BadRequest):
            bodies.check_query(request)
            options = bodies.single_values(request.args)
            _check_texts(options)
        try:
            asked = bodies.json_object(request)
        except Rejected as wrong:
            assert wrong.problem.startswith(("The body is ", "The body has ", "The JSON is ")), wrong.problem
            return
        with suppress(Rejected):
            assert bodies.required_text(asked, "bucket")
        with suppress(Rejected):
            assert upload.is_user(bodies.user(asked, None, None))
        bodies.is_true(asked.get("keep"))


def check_settings(data: bytes) -> None:
    """Check DATABASE_URL, and that a setting is accepted or refused without its secret."""
    choice, value = data[:1], _text(data[1:])
    if choice < b"\x80":
        secret = value.startswith("postgresql://dropcap:" + SECRET) and value.count(SECRET) == 1
        try:
            address = database_url.read(value)
        except SettingsError as wrong:
            assert not secret or SECRET not in str(wrong), wrong
            assert "\n" not in str(wrong)
            return
        assert not secret or SECRET not in repr(address)
        assert address.host
        assert 0 < address.port < 65_536
    else:
        name, _ = PARSERS[choice[0] % len(PARSERS)]
        with suppress(SettingsError):
            Settings.read({name.upper(): value})


def _texts(data: bytes) -> Texts:
    caption, description, alt_text, tags, text, language = map(_text, _split(data, 6))
    tag = upload.language_tag(language) or "en"
    return Texts(caption, description, alt_text, tuple(tags.split("\n")) if tags else (), text, tag)


def _read_back(text: str) -> str:
    """Return a text as XML holds it (XML 1.0, 2.2 and 2.11)."""
    return xmp.NOT_XML.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


def check_xmp(data: bytes) -> None:
    """Check that an XMP packet is XML that holds each text, and nothing else."""
    texts = _texts(data)
    packet = xmp.packet(texts)
    assert len(packet) <= xmp.LARGEST
    if not packet:
        return
    body = packet.decode().removeprefix("\ufeff")
    root = ElementTree.fromstring(body)  # noqa: S314  it is our own
    [description] = root.iter(f"{RDF}Description")
    long = "\n\n".join(filter(None, (texts.description, texts.text)))
    wanted: dict[str, list[str]] = {}
    for name, text in (
        (f"{IPTC}AltTextAccessibility", texts.alt_text),
        (f"{IPTC}ExtDescrAccessibility", long),
        (f"{DC}description", texts.caption),
    ):
        if text:
            wanted[name] = [_read_back(text)] * 2
    if texts.tags:
        wanted[f"{DC}subject"] = [_read_back(tag) for tag in texts.tags]
    found = {each.tag: [item.text or "" for item in each.iter(f"{RDF}li")] for each in description}
    assert found == wanted
    assert len(list(root.iter())) == 3 + sum(2 + len(items) for items in wanted.values())


def png_xmp(data: bytes) -> bytes:
    """Return the XMP of a PNG, uncompressed (W3C PNG, third edition, 11.3.3.4)."""
    length, name, text = data.rpartition(b"iTXtXML:com.adobe.xmp\0\0\0\0\0")
    size = int.from_bytes(length[-4:], "big") - len(name) + 4
    return text[:size] if name else b""


def check_published(data: bytes) -> None:
    """Check that a reader finds in a published file the packet that was written, and no other metadata."""
    packet = xmp.packet(_texts(data))
    kind = WAYS[len(data) % len(WAYS)]
    with decoding.Picture(None, Image.new("RGB", (2, 2))) as picture:  # type: ignore[arg-type]
        made = embed(picture.encode(2, kind, 80), packet)
    with Image.open(io.BytesIO(made.data)) as read:
        read.load()
        assert read.size == (2, 2)
        assert "exif" not in read.info
        # Our reader skips the texts of a PNG.
        written = png_xmp(made.data) if kind == "png" else read.info.get("xmp", b"")
    assert written == packet, (kind, len(packet))
