"""Darkroom's own worker over a folder that takes STORE_SECONDS for every picture. The SDK's loop is the real one."""

import os
import time

from darkroom.edge import Edge
from darkroom.service import Service
from darkroom.settings import Settings
from darkroom.storage import FolderStore


class SlowStore(FolderStore):
    def put(self, key, data, media_type):
        if key.endswith(".png"):
            time.sleep(float(os.environ["STORE_SECONDS"]))
        super().put(key, data, media_type)


if __name__ == "__main__":
    import runpod

    settings = Settings()
    service = Service(settings)
    service.store = SlowStore(settings.store, settings.public_url)
    edge = Edge(service)
    edge.register_fitness_checks()
    runpod.serverless.start(edge.config())
