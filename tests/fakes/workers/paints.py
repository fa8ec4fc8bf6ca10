"""Answers an image_edit as Darkroom does, with the picture's colours turned; no model. For the playground."""

import asyncio
import base64
import io

import runpod
from PIL import Image, ImageOps

STEPS = 8


async def handler(job):
    request = job["input"]
    if request["prompt"] == "fail":
        return {"error": "INVALID_INPUT: prompt says fail; say what to change", "code": "INVALID_INPUT",
                "retryable": False, "details": {"field": "prompt"}}
    for done in range(STEPS):
        runpod.serverless.progress_update(job, {"stage": "denoise", "done": done, "total": STEPS})
        await asyncio.sleep(request.get("step_seconds", 0.15))
    picture = Image.open(io.BytesIO(base64.b64decode(request["images"][0].partition(",")[2]))).convert("RGB")
    red, green, blue = picture.split()
    painted = io.BytesIO()
    ImageOps.autocontrast(Image.merge("RGB", (green, blue, red))).save(painted, "PNG")
    link = "data:image/png;base64," + base64.b64encode(painted.getvalue()).decode()
    return {
        "image_url": link, "images": [{"url": link, "key": "x/image_0000.png", "width": picture.width,
                                       "height": picture.height, "seed": 42, "prompt": request["prompt"]}],
        "seed": 42, "warnings": [], "model": {"id": "pocket", "revision": "main", "precision": "float32"},
        "timings": {"cold": False, "queue_ms": 12.0, "load_ms": 0.0, "fetch_ms": 3.1, "encode_ms": 84.0,
                    "denoise_ms": 1200.0, "decode_ms": 61.0, "upload_ms": 5.2, "total_ms": 1370.0},
        "cost": {"gpu": "NVIDIA L4", "gpu_seconds": 1.37, "usd": 0.00026},
    }


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
