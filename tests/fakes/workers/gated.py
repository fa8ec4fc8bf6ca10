"""Answers with its input once the file `gate` exists, many jobs at a time: the test says when jobs may end."""

import asyncio
import os

import runpod


async def handler(job):
    while not os.path.exists(job["input"]["gate"]):
        await asyncio.sleep(0.05)
    return {"echo": job["input"], "s3": job.get("s3Config")}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda current: 20})
