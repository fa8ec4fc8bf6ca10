"""A preset's LoRA that lies in a folder of this machine: read whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from darkroom.errors import ModelNotReady
from darkroom.models import lora
from darkroom.models.editor import Editor
from darkroom.models.presets import LoraFile
from darkroom.pocket.shipped import seal
from tests.fakes.loras import random_lora


@pytest.fixture
def file(editor: Editor, tmp_path: Path) -> LoraFile:
    save_file(random_lora(editor.transformer), tmp_path / "fast.safetensors")
    seal(tmp_path)
    return LoraFile(str(tmp_path), "fast.safetensors")


def test_it_is_read_at_full_strength(file: LoraFile) -> None:
    read = lora.of_preset(file)
    assert (read.scale, read.field) == (1.0, "preset")
    assert read.weights.keys() == lora.read(Path(file.repo, file.file).read_bytes(), 1.0, "preset").weights.keys()


def test_a_missing_or_damaged_one_is_said(file: LoraFile) -> None:
    path = Path(file.repo, file.file)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelNotReady, match=r"fast\.safetensors is damaged"):
        lora.of_preset(file)
    path.unlink()
    with pytest.raises(ModelNotReady, match=r"fast\.safetensors is missing"):
        lora.of_preset(file)
    (path.parent / "checksums.json").unlink()
    with pytest.raises(ModelNotReady, match=r"fast\.safetensors is missing"):
        lora.of_preset(file)
