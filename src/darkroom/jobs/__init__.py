"""What a caller may ask for: one file per job type, parsed once, at the door.

`parse` turns the `input` of a RunPod job into one of the models of `Job`, or raises a `BadJob`
that names the field. Nothing behind the door looks at raw dictionaries.
"""

from darkroom.jobs.base import JobInput
from darkroom.jobs.bridge_compare import BridgeCompare
from darkroom.jobs.bridge_evaluate import BridgeEvaluate
from darkroom.jobs.bridge_train import BridgeTrain
from darkroom.jobs.control import Health, Warmup
from darkroom.jobs.image_edit import ImageEdit, LoraRequest, PictureJob
from darkroom.jobs.image_generate import ImageGenerate
from darkroom.jobs.injection_sweep import InjectionSweep
from darkroom.jobs.injection_train import InjectionTrain
from darkroom.jobs.limits import Limits
from darkroom.jobs.parse import Job, parse
from darkroom.jobs.redact import redacted
from darkroom.jobs.s3config import S3Config
from darkroom.jobs.video_edit import Guidance, VideoEdit, frame_seed

__all__ = [
    "BridgeCompare",
    "BridgeEvaluate",
    "BridgeTrain",
    "Guidance",
    "Health",
    "ImageEdit",
    "ImageGenerate",
    "InjectionSweep",
    "InjectionTrain",
    "Job",
    "JobInput",
    "Limits",
    "LoraRequest",
    "PictureJob",
    "S3Config",
    "VideoEdit",
    "Warmup",
    "frame_seed",
    "parse",
    "redacted",
]
