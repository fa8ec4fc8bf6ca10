"""Answers with its input and its own process id, many jobs at a time."""

import os

import runpod


async def handler(job):
    return {"echo": job["input"], "pid": os.getpid(), "s3": job.get("s3Config")}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda current: 20})
