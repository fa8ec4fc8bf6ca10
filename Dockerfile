# The worker's image: docker build -t darkroom .
#
# The slim Python image suffices as a base: torch's wheels bring CUDA, cuDNN and NCCL, the driver comes from the host,
# and a CUDA base would hold the same libraries once more (2 to 5 GB that every cold start pulls). The driver must
# speak CUDA 13 (release 580 or later), which .runpod/hub.json asks RunPod for.
ARG BASE_IMAGE=python:3.12-slim-bookworm

# -- what is installed, in two parts: torch and CUDA (gigabytes, seldom changed) and the rest ---------------------
FROM ${BASE_IMAGE} AS pins
COPY requirements.txt /
RUN grep -E '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==' /requirements.txt > /cuda.txt \
    && grep -vE '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==' /requirements.txt > /rest.txt

FROM ${BASE_IMAGE}

# gcc: Triton builds its launchers with it when a model is compiled. libc6-dev has the headers, the base image
# Python's own. Tesseract and a font with Chinese letters, 20 MB: bridge_evaluate reads and writes texts with them.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
       tesseract-ocr tesseract-ocr-deu tesseract-ocr-fra tesseract-ocr-chi-sim fonts-wqy-microhei \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 darkroom

# Layers from seldom to often changed. Everything is pinned, so nothing is resolved (--no-deps).
COPY --from=pins /cuda.txt /tmp/
RUN pip install --no-cache-dir --no-deps --root-user-action=ignore -r /tmp/cuda.txt
COPY --from=pins /rest.txt /tmp/
RUN pip install --no-cache-dir --no-deps --root-user-action=ignore -r /tmp/rest.txt

# For cards without FP8 (profile rtx3090): docker build --build-arg FOUR_BIT=1. Apart, since peft imports it at every start.
ARG FOUR_BIT=""
RUN [ -z "${FOUR_BIT}" ] || pip install --no-cache-dir --no-deps --root-user-action=ignore bitsandbytes==0.50.2

# Weights stay off the image: a packed artifact (`darkroom pack`) on a volume, or RunPod's model cache; docs/deploy.md.
# HF_HOME: RunPod's model cache and network volumes both appear under /runpod-volume.
# NVIDIA_*: how the container runtime knows to bring the driver in; CUDA base images set them too.
# RUNPOD_MIN_CUDA_VERSION: the SDK's own check at start; with an older driver torch sees no card.
ENV PYTHONPATH=/app/src \
    PYTHONUNBUFFERED=1 \
    HOME=/home/darkroom \
    HF_HOME=/runpod-volume/huggingface-cache \
    HF_HUB_DISABLE_TELEMETRY=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True \
    RUNPOD_DEBUG_LEVEL=INFO \
    RUNPOD_MIN_CUDA_VERSION=13.0

WORKDIR /app
# The default store and spool are under ./results. The package is not installed: its command is this script, so that
# weights can be packed in a container of this image.
RUN mkdir -p /app/results && chown darkroom: /app/results \
    && printf '#!/bin/sh\nexec python -m darkroom.cli "$@"\n' > /usr/local/bin/darkroom \
    && chmod 755 /usr/local/bin/darkroom

COPY src/ /app/src/
COPY handler.py entrypoint.sh /app/
# Bytecode made here saves every cold start the compiling; the worker's user cannot write to /app.
RUN python -m compileall -q /app/src /app/handler.py

ENTRYPOINT ["/app/entrypoint.sh"]
CMD ["python", "-u", "handler.py"]
