"""The packed artifact: one folder per checkpoint and precision, made once and streamed at every cold start.

    packed.json               the manifest: format, precision, source, versions, sections with sizes and SHA-256
    transformer/ text_encoder/ vae/     config.json and what is loaded: 00001.safetensors …
    modulation/                 the transformer's modulation weights, which tables stand for
    cache/modulation/           modulation tables of the presets' schedules; workers add those of others
    embeddings/                 Qwen2.5-VL's token embeddings, of which rows are read as prompts need them
    processor/ scheduler/       as in the source

`pack` writes it, `verify` checks it, `load` streams it. A folder without a manifest is no artifact: it is written
last, and the folder gets its name after that.
"""

from darkroom.models.packing.loading import Loading, load
from darkroom.models.packing.manifest import MANIFEST, Manifest, is_packed, read_manifest, verify
from darkroom.models.packing.tables import CACHE, TABLES
from darkroom.models.packing.writing import pack

__all__ = ["CACHE", "MANIFEST", "TABLES", "Loading", "Manifest", "is_packed", "load", "pack", "read_manifest", "verify"]
