"""The naive implementation, for comparison: Pillow decodes the whole picture, and BLIP runs in fp32.

It does less than Dropcap (no database, no Gemini, nothing for a delivery that comes twice) and nothing badly:
one thread, no gradients, weights mapped from a safetensors file. `python -m tests.memory.naive FOLDER` writes
that file, with random weights.
"""

import io
import os
import sys
from functools import cache

import functions_framework
import pillow_heif
import torch
from cloudevents.http import CloudEvent
from google.cloud.storage import Client
from PIL import Image, ImageOps
from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

PICTURES = os.environ.get("PICTURES_BUCKET", "dropcap-pictures")
SIDES = (1600, 800, 200)
TOKENS = 30  # at most, as in dropcap.captioning.blip

torch.set_num_threads(1)
pillow_heif.register_heif_opener()


@cache
def blip() -> tuple[BlipImageProcessor, BlipForConditionalGeneration]:
    """Return the model, loaded once per process."""
    model = BlipForConditionalGeneration.from_pretrained(os.environ["MODEL_FOLDER"], low_cpu_mem_usage=True)
    return BlipImageProcessor(), model.eval()


@functions_framework.cloud_event
def on_upload(event: CloudEvent) -> None:
    """Resize and caption an upload, then delete it; leave files that are not pictures."""
    client = Client()
    source = client.bucket(event.data["bucket"]).blob(event.data["name"])
    try:
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(source.download_as_bytes()))).convert("RGB")
    except (OSError, Image.DecompressionBombError) as bad:
        print(f"{source.name}: {bad}", flush=True)
        return
    for side in SIDES:
        copy = ImageOps.contain(picture, (side, side)) if max(picture.size) > side else picture
        file = io.BytesIO()
        copy.save(file, "WEBP", quality=80)
        target = client.bucket(PICTURES).blob(f"{source.name}/{side}.webp")
        target.upload_from_string(file.getvalue(), content_type="image/webp")
    processor, model = blip()
    with torch.inference_mode():
        pixels = processor(picture, return_tensors="pt")["pixel_values"]
        ids = model.generate(pixel_values=pixels, max_new_tokens=TOKENS)
    print(f"{source.name}: {ids[0].tolist()}", flush=True)
    source.delete()


if __name__ == "__main__":
    torch.manual_seed(0)
    BlipForConditionalGeneration(BlipConfig()).save_pretrained(f"{sys.argv[1]}.new")
    os.rename(f"{sys.argv[1]}.new", sys.argv[1])
