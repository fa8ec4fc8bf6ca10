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

# Whether the worker's user may write to a folder, which is made, or handed over to it, first.
prepared() {
    mkdir -p "$1" 2>/dev/null || true
    if ! $as_darkroom test -w "$1"; then
        # A volume that has only seen root so far: gigabytes, but a few hundred files.
        chown -R darkroom: "$1" 2>/dev/null || true
    fi
    $as_darkroom test -w "$1"
}

if ! prepared "$HF_HOME"; then
    echo "darkroom: only root may write to HF_HOME, so the worker stays root" >&2
    exec "$@"
fi
store="${DARKROOM_STORE:-}"
for folder in "${DARKROOM_CACHE_DIR:-}" "${store#file://}"; do
    case "$folder" in
        /*) prepared "$folder" || echo "darkroom: the worker's user may not write to $folder" >&2 ;;
    esac
done
exec $as_darkroom "$@"
