#!/bin/sh
# Gives up root before Python starts, wherever the model cache lets another user write.
#
# RunPod starts containers as root and mounts network volumes and its own model cache as root. A plain `USER` in the
# Dockerfile would lock the worker out of volumes that only root may write, so the decision falls here, at start.
set -eu

as_darkroom="setpriv --reuid=darkroom --regid=darkroom --init-groups --no-new-privs"

if [ "$(id -u)" != 0 ]; then
    exec "$@"
fi

mkdir -p "$HF_HOME" 2>/dev/null || true
if ! $as_darkroom test -w "$HF_HOME"; then
    # A volume that has only seen root so far: gigabytes, but a few hundred files.
    chown -R darkroom: "$HF_HOME" 2>/dev/null || true
fi
if $as_darkroom test -w "$HF_HOME"; then
    exec $as_darkroom "$@"
fi
echo "darkroom: only root may write to HF_HOME, so the worker stays root" >&2
exec "$@"
