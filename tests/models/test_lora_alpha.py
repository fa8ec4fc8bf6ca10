"""A LoRA is worn as strongly as diffusers wears it, also where only the file's header says how strongly that is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.loaders import QwenImageLoraLoaderMixin
from safetensors.torch import save

from darkroom.errors import InvalidInput
from darkroom.models.editor import Editor
from darkroom.models.lora import read, worn
from tests.fakes.loras import random_lora

RANK = 16
LAYERS = [f"transformer_blocks.{block}.attn.{layer}" for block in (0, 1) for layer in ("to_q", "to_v")]


def file_of(weights: dict[str, torch.Tensor], **settings: Any) -> bytes:
    """As diffusers' save_lora_weights writes it."""
    told = {f"transformer.{name}": value for name, value in settings.items()}
    return save(weights, {"format": "pt", "lora_adapter_metadata": json.dumps(told)})


def settings(**changes: Any) -> dict[str, Any]:
    return {"r": RANK, "lora_alpha": 4, "target_modules": ["to_q", "to_v"], **changes}


def outputs(transformer: Any, x: torch.Tensor) -> list[torch.Tensor]:
    modules = dict(transformer.named_modules())
    return [modules[layer](x) for layer in LAYERS]


@pytest.mark.parametrize(
    "own",
    [settings(), settings(lora_alpha=32), settings(alpha_pattern={"transformer_blocks.0.attn.to_q": 16, "to_v": 2}),
     settings(use_rslora=True)],
    ids=["weaker", "stronger", "by layer", "rank-stabilised"],
)  # fmt: skip
@torch.no_grad()
def test_each_layer_answers_as_in_diffusers(editor: Editor, family: Path, tmp_path: Path, own: dict[str, Any]) -> None:
    data = file_of(random_lora(editor.transformer, rank=RANK), **own)
    (tmp_path / "lora.safetensors").write_bytes(data)
    theirs = QwenImageTransformer2DModel.from_pretrained(family / "transformer")
    state, told = QwenImageLoraLoaderMixin.lora_state_dict(
        str(tmp_path), weight_name="lora.safetensors", return_lora_metadata=True
    )
    x = torch.randn(3, theirs.inner_dim, generator=torch.Generator().manual_seed(0))
    plain = outputs(theirs, x)
    QwenImageLoraLoaderMixin.load_lora_into_transformer(state, theirs, metadata=told, adapter_name="own")
    wanted = outputs(theirs, x)
    with worn(editor.transformer, [read(data, 1.0, "loras[0]")]):
        ours = outputs(editor.transformer, x)
    for got, right, without in zip(ours, wanted, plain, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(right, without, atol=1e-3)
    for got, without in zip(outputs(editor.transformer, x), plain, strict=True):
        torch.testing.assert_close(got, without, rtol=1e-5, atol=1e-6)


def test_what_it_does_to_modulation_is_told_apart_by_its_alpha(editor: Editor) -> None:
    """Their matrices are kept beside tables and worn there: the strength is in them, and in what tables go by."""
    width, layer = editor.transformer.inner_dim, "transformer.transformer_blocks.0.img_mod.1"
    weights = {f"{layer}.lora_A.weight": torch.ones(RANK, width), f"{layer}.lora_B.weight": torch.ones(6 * width, RANK)}
    weak, full = (read(file_of(weights, **settings(lora_alpha=alpha)), 1.0, "loras[0]") for alpha in (4, RANK))
    torch.testing.assert_close(4 * weak.weights[f"{layer}.lora_B.weight"], full.weights[f"{layer}.lora_B.weight"])
    torch.testing.assert_close(full.weights[f"{layer}.lora_B.weight"], weights[f"{layer}.lora_B.weight"])
    assert weak.modulation_digest != full.modulation_digest


@pytest.mark.parametrize("told", ["no json", "[1]", '{"transformer.lora_alpha": "four"}',
                                  '{"transformer.lora_alpha": 4, "transformer.alpha_pattern": {"to_q": true}}',
                                  '{"transformer.lora_alpha": 4, "transformer.alpha_pattern": [3]}'])  # fmt: skip
def test_a_header_that_makes_no_sense_is_refused_by_its_field(editor: Editor, told: str) -> None:
    data = save(random_lora(editor.transformer), {"lora_adapter_metadata": told})
    with pytest.raises(InvalidInput, match="alpha") as refused:
        read(data, 1.0, "loras[0].path")
    assert refused.value.field == "loras[0].path"
