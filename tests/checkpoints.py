"""BLIP checkpoints to export, and a hub to fetch them from."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def random_checkpoint(target: Path, seed: int) -> Path:
    """A tiny BLIP whose random weights are large enough for definite, and different, choices."""
    import torch
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

    from model_export.train import tokenizer

    torch.manual_seed(seed)
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    shape["initializer_range"] = 0.3
    config = BlipConfig(
        vision_config=shape | {"num_hidden_layers": 2, "image_size": 48, "patch_size": 16},
        text_config=shape | {"num_hidden_layers": 2 + seed, "encoder_hidden_size": 32, "vocab_size": 30524},
    )
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():  # or no sentence would ever end
        model.text_decoder.cls.predictions.bias[102] = 7.5
    model.save_pretrained(target)
    tokenizer().save_pretrained(target)
    BlipImageProcessor(size={"height": 48, "width": 48}).save_pretrained(target)
    return target


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """The address of a server that speaks the hub's protocol and has the model `some/blip`, in `folder`.

    `some/cut` is the same, but its weights are promised whole and sent by half, as when a connection breaks.
    """
    info = {"sha": COMMIT, "siblings": [{"rfilename": p.name} for p in folder.iterdir()]}
    models = ("some/blip", "some/cut")

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            name = path.rpartition("/")[2]
            model = "/".join(path.removeprefix("/api/models").split("/")[1:3])
            if model in models and path.startswith("/api/models/"):
                body = json.dumps(info | {"id": model}).encode()
            elif path.startswith(tuple(f"/{each}/resolve/" for each in models)) and (folder / name).is_file():
                body = (folder / name).read_bytes()
            else:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.end_headers()
            if with_body:
                self.close_connection = (model, name) == ("some/cut", "model.safetensors")
                self.wfile.write(body[: len(body) // 2] if self.close_connection else body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a test's output is its own."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
