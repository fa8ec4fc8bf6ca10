"""Answers image_edit as Darkroom's worker does, without a model: the picture's colours are turned round.

Keeps one line in runs.txt of the store for each job that it begins to work on, one in charges.txt for each that
it has finished, and replays a result whose key it has stored.
"""

import asyncio
import base64
import hashlib
import io
import json
import os
import time
from pathlib import Path

import runpod
from PIL import Image, ImageOps

STORE = Path(os.environ["DARKROOM_STORE"])
PUBLIC = os.environ["DARKROOM_PUBLIC_URL"]
seen_a_job = False


async def handler(job):
    global seen_a_job
    started, cold, seen_a_job = time.perf_counter(), not seen_a_job, True
    key = job["input"]["idempotency_key"]
    record = STORE / f"key-{key}.json"
    if record.is_file():
        return json.loads(record.read_text())
    with (STORE / "runs.txt").open("a") as runs:
        runs.write(f"{key}\n")
    for step in range(4):
        runpod.serverless.progress_update(job, {"stage": "denoise", "done": step, "total": 4})
        await asyncio.sleep(0.02)
    before = Image.open(io.BytesIO(base64.b64decode(job["input"]["images"][0].partition(",")[2])))
    buffer = io.BytesIO()
    ImageOps.invert(before.convert("RGB")).save(buffer, "PNG")
    name = f"{job['id']}/image_0000.png"
    (STORE / job["id"]).mkdir(parents=True)
    (STORE / name).write_bytes(buffer.getvalue())
    with (STORE / "charges.txt").open("a") as charges:
        charges.write(f"{key}\n")
    seconds = time.perf_counter() - started
    reply = {
        "image_url": f"{PUBLIC}/{name}",
        "images": [{"url": f"{PUBLIC}/{name}", "key": name, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
                    "width": before.width, "height": before.height, "seed": 1, "prompt": str(job["input"]["prompt"])}],
        "seed": 1, "warnings": [],
        "timings": {"cold": cold, "queue_ms": 0.0, "denoise_ms": 1000 * seconds, "total_ms": 1000 * seconds},
        "cost": {"gpu": "NVIDIA L4", "gpu_seconds": seconds, "usd": seconds * 0.00019},
    }
    record.write_text(json.dumps(reply))
    return reply


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
