"""Talk to any Darkroom endpoint, on RunPod or on this machine. Needs no torch.

    from darkroom.client import Client

    with Client("https://api.runpod.ai/v2/<id>", api_key=key) as client:
        reply = client.edit(images=["photo.png"], prompt="make the sky a sunset", seed=7)
        client.download(reply.images[0], "edited.png")
"""

from darkroom.client.address import LOCAL_ENDPOINT, endpoint_url
from darkroom.client.asynchronous import AsyncClient
from darkroom.client.errors import (
    BadReply,
    ChecksumMismatch,
    ClientError,
    DownloadFailed,
    EndpointUnreachable,
    JobCancelled,
    JobFailed,
    JobLost,
    JobTimedOut,
    RateLimited,
    RequestRefused,
    Unauthorized,
    WaitTimeout,
)
from darkroom.client.protocol import Polling
from darkroom.client.replies import EditReply, EndpointHealth, JobHandle, JobReply, JobStatus, Picture, VideoReply
from darkroom.client.retry import Retry
from darkroom.client.sync import Client

__all__ = [
    "LOCAL_ENDPOINT",
    "AsyncClient",
    "BadReply",
    "ChecksumMismatch",
    "Client",
    "ClientError",
    "DownloadFailed",
    "EditReply",
    "EndpointHealth",
    "EndpointUnreachable",
    "JobCancelled",
    "JobFailed",
    "JobHandle",
    "JobLost",
    "JobReply",
    "JobStatus",
    "JobTimedOut",
    "Picture",
    "Polling",
    "RateLimited",
    "RequestRefused",
    "Retry",
    "Unauthorized",
    "VideoReply",
    "WaitTimeout",
    "endpoint_url",
]
