"""Not the SDK: a bare loop over the worker protocol, for measuring the endpoint without the SDK's pauses."""

import http.client
import json
import os
import time
from urllib.parse import urlsplit


def main() -> None:
    worker = os.environ["RUNPOD_POD_ID"]
    take = urlsplit(os.environ["RUNPOD_WEBHOOK_GET_JOB"].replace("$ID", worker))
    done = os.environ["RUNPOD_WEBHOOK_POST_OUTPUT"].replace("$RUNPOD_POD_ID", worker)
    connection = http.client.HTTPConnection(take.netloc)
    while True:
        connection.request("GET", f"{take.path}?{take.query}&job_in_progress=0")
        reply = connection.getresponse()
        data = reply.read()
        taken = time.monotonic()
        if reply.status != 200:
            continue
        job = json.loads(data)
        address = urlsplit(done.replace("$ID", job["id"]))
        body = json.dumps({"output": {"taken": taken, "done": time.monotonic()}})
        connection.request("POST", f"{address.path}?{address.query}&isStream=false", body)
        connection.getresponse().read()


if __name__ == "__main__":
    main()
