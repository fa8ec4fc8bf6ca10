"""Fails its fitness check, as a worker without weights does."""

import runpod


@runpod.serverless.register_fitness_check
def has_weights():
    raise RuntimeError("the weights are missing")


async def handler(job):
    return {}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
