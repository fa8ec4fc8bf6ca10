"""Misbehaves as `input.mood` says. One process for many tests, because the SDK takes seconds to import."""

import asyncio
import os
import signal
import time

import runpod


async def echo(job):
    return {"echo": job["input"], "pid": os.getpid()}


async def slow(job):
    """Reports its process id and how far it is, then works on."""
    seconds = job["input"]["seconds"]
    started = time.monotonic()
    runpod.serverless.progress_update(job, {"pid": os.getpid(), "step": 1})
    while time.monotonic() - started < seconds:
        await asyncio.sleep(0.02)
    return {"pid": os.getpid()}


async def cancellable(job):
    """Leaves a mark in a file when it is stopped."""
    try:
        await slow(job)
    except asyncio.CancelledError:
        with open(job["input"]["mark"], "w") as mark:
            mark.write("stopped")
        raise


async def blocks(job):
    """Blocks the event loop: sees no stop signal."""
    time.sleep(job["input"]["seconds"])
    return {"pid": os.getpid()}


async def exits(job):
    os._exit(3)


async def dies_once(job):
    """Is killed with the first worker, answers on the second; each run leaves a line in a file."""
    with open(job["input"]["mark"], "a") as mark:
        mark.write(f"{os.getpid()}\n")
    with open(job["input"]["mark"]) as mark:
        runs = len(mark.readlines())
    if runs == 1:
        runpod.serverless.progress_update(job, {"pid": os.getpid()})
        await asyncio.sleep(60)
    return {"runs": runs}


async def frozen(job):
    """Stops its whole process group, heartbeat included."""
    with open(job["input"]["mark"], "a") as mark:
        mark.write(f"{os.getpid()}\n")
    with open(job["input"]["mark"]) as mark:
        if len(mark.readlines()) == 1:
            os.killpg(0, signal.SIGSTOP)
    return {"runs": 2}


async def refresh(job):
    return {"pid": os.getpid(), "refresh_worker": True}


async def raises(job):
    raise ValueError("this handler always raises")


async def fails(job):
    return {"error": "INVALID_INPUT: no", "code": "INVALID_INPUT", "retryable": False, "details": {"field": "x"}}


async def fails_once(job):
    with open(job["input"]["mark"], "a") as mark:
        mark.write("run\n")
    with open(job["input"]["mark"]) as mark:
        return {"error": "INTERNAL: once"} if len(mark.readlines()) == 1 else {"fine": True}


async def error_is_a_dict(job):
    return {"error": {"code": "INTERNAL"}}


async def too_large(job):
    return {"data": "x" * job["input"]["bytes"]}


async def not_json(job):
    return {"data": {1, 2, 3}}


async def not_a_number(job):
    return {"loss": float("nan")}


MOODS = {
    function.__name__: function
    for function in (echo, slow, cancellable, blocks, exits, dies_once, frozen, refresh, raises, fails, fails_once,
                     error_is_a_dict, too_large, not_json, not_a_number)
}


async def handler(job):
    return await MOODS[job["input"].get("mood", "echo")](job)


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
