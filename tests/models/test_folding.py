"""Folded modulation is what the layers would have said, wherever their weights are."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from darkroom.errors import InvalidInput
from darkroom.models import folding, lora
from darkroom.models.forward import Forward
from darkroom.models.levers import Levers
from tests.models.test_lean import inputs, transformer

TIMES = torch.tensor([0.9, 0.5, 0.25]).tolist()
FOLDED = Levers(fold=True, lean=True)


def modulation_lora(model: Any, scale: float = 0.7, seed: int = 0, field: str = "loras[0].path") -> lora.Lora:
    """A LoRA of the modulation layers, and of nothing else."""
    random, weights, width = torch.Generator().manual_seed(seed), {}, model.inner_dim
    for index in range(len(model.transformer_blocks)):
        for layer in folding.LAYERS:
            name = f"transformer.transformer_blocks.{index}.{layer}.1"
            weights[f"{name}.lora_A.weight"] = 0.2 * torch.randn(4, width, generator=random)
            weights[f"{name}.lora_B.weight"] = 0.2 * torch.randn(6 * width, 4, generator=random)
    return lora.Lora(weights, scale, field)


def mixed_lora(model: Any) -> lora.Lora:
    from tests.fakes.loras import random_lora

    return lora.Lora({**modulation_lora(model).weights, **random_lora(model, 0.2)}, 0.7, "loras[0].path")


def run(forward: Forward, references: int = 1) -> Tensor:
    with torch.no_grad():
        return forward(*inputs(references))


def stored(model: Any, path: Path) -> Callable[[str], Tensor]:
    """The modulation weights in a file, and what reads them from there."""
    state = model.state_dict()
    names = folding.parameter_names(len(model.transformer_blocks))
    save_file({name: state[name].contiguous() for name in names}, path)

    def read(name: str) -> Tensor:
        with safe_open(path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    return read


@pytest.mark.parametrize("zero_cond_t", [True, False])
@pytest.mark.parametrize("where", ["cpu", "file"])
def test_weights_outside_of_the_module_give_the_same_forward_bit_for_bit(
    tmp_path: Path, zero_cond_t: bool, where: str
) -> None:
    model = transformer(zero_cond_t)
    expected = run(Forward(model, Levers.none()))
    if where == "cpu":
        folding.detach(model, "fingerprint")
    else:
        folding.from_reader(model, stored(model, tmp_path / "modulation.safetensors"), "fingerprint")
    for levers in (FOLDED, Levers(fold=True), Levers.none()):
        assert torch.equal(run(Forward(model, levers)), expected)


def test_a_third_of_the_parameters_leaves_the_device() -> None:
    model = transformer(zero_cond_t=True)
    blocks = model.transformer_blocks
    before, whole = count(blocks), count(model)
    folding.detach(model)
    assert count(blocks) == pytest.approx(2 / 3 * before, rel=0.01)
    assert whole - count(model) == 3 * 2 * (192 * 6 * 192 + 6 * 192)
    with pytest.raises(RuntimeError, match="folded"):
        model(torch.randn(1, 4, 64), torch.randn(1, 3, 128), timestep=torch.tensor([0.5]), img_shapes=[[(1, 2, 2)]])


def count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def test_a_schedule_is_computed_in_one_go_and_once() -> None:
    model = transformer(zero_cond_t=True)
    forward = Forward(model, FOLDED)
    tokens, cells, text, _, grids = inputs(1)
    assert forward.folding is not None
    with torch.no_grad():
        for _ in range(2):
            forward.announce(TIMES)
            for time in TIMES:
                forward(tokens, cells, text, torch.tensor(time), grids)
    assert forward.folding.computed == 1


def test_timesteps_are_told_apart_as_the_models_dtype_rounds_them() -> None:
    model = transformer(zero_cond_t=True).to(torch.bfloat16)
    tokens, cells, text, _, grids = inputs(1)
    forward = Forward(model, FOLDED)
    assert forward.folding is not None
    for time in (0.5, 0.5 + 1e-5, 0.6):
        with torch.no_grad():
            forward(tokens.bfloat16(), cells, text.bfloat16(), torch.tensor(time, dtype=torch.bfloat16), grids)
    assert forward.folding.computed == 2


def test_tables_are_kept_on_disk_by_weights_and_timesteps_and_a_damaged_one_is_computed_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = transformer(zero_cond_t=True)
    expected = run(Forward(model, Levers.none()))
    weights = folding.detach(model, "one")
    first = Forward(model, FOLDED, tmp_path)
    assert torch.equal(run(first), expected)
    (file,) = (tmp_path / "modulation").iterdir()
    again = Forward(model, FOLDED, tmp_path)
    assert torch.equal(run(again), expected)
    assert again.folding is not None
    assert again.folding.computed == 0
    for damage in (file.read_bytes()[:100], b""):
        file.write_bytes(damage)
        healed = Forward(model, FOLDED, tmp_path)
        assert torch.equal(run(healed), expected)
        assert "not taken" in caplog.text
        assert healed.folding is not None
        assert healed.folding.computed == 1
        caplog.clear()
    weights.fingerprint = "two"
    run(Forward(model, FOLDED, tmp_path))
    assert len(list((tmp_path / "modulation").iterdir())) == 2


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = transformer(zero_cond_t=True)
    expected = run(Forward(model, Levers.none()))
    (tmp_path / "taken").write_text("a file where the folder should be")
    folding.detach(model, "one")
    forward = Forward(model, FOLDED, tmp_path / "taken")
    assert torch.equal(run(forward), expected)
    assert "not kept" in caplog.text


def test_a_disk_that_is_full_costs_only_the_keeping_and_no_piece_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = transformer(zero_cond_t=True)
    expected = run(Forward(model, Levers.none()))
    folding.detach(model, "one")
    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        assert torch.equal(run(Forward(model, FOLDED, tmp_path)), expected)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    assert "not kept" in caplog.text
    assert not list((tmp_path / "modulation").iterdir())


@pytest.mark.parametrize("make", [modulation_lora, mixed_lora])
def test_a_lora_on_modulation_is_in_the_table_and_off_it_afterwards(make: Any) -> None:
    model = transformer(zero_cond_t=True)
    theirs = Forward(model, Levers.none())
    plain = run(theirs)
    with lora.worn(model, [make(model)]):
        expected = run(theirs)
        inside = Forward(model, FOLDED)
        assert torch.equal(run(inside), expected)
    assert torch.equal(run(inside), plain)
    folding.detach(model)
    outside = Forward(model, FOLDED)
    assert torch.equal(run(outside), plain)
    for _ in range(2):
        with lora.worn(model, [make(model)]):
            # Added outside of the layer, in another order than peft's: equal to rounding.
            torch.testing.assert_close(run(outside), expected, atol=1e-5, rtol=1e-4)
        assert torch.equal(run(outside), plain)
    assert outside.folding is not None
    assert outside.folding.computed == 2
    with lora.worn(model, [modulation_lora(model, seed=1)]):
        assert not torch.allclose(run(outside), expected, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    ["norm_out.linear", "time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2"],
)
@pytest.mark.parametrize("detached", [False, True])
def test_a_lora_on_what_a_table_is_made_from_makes_another_table(name: str, detached: bool) -> None:
    model, random = transformer(zero_cond_t=True), torch.Generator().manual_seed(0)
    layer = model.get_submodule(name)
    weights = {
        f"transformer.{name}.lora_A.weight": 0.3 * torch.randn(4, layer.in_features, generator=random),
        f"transformer.{name}.lora_B.weight": 0.3 * torch.randn(layer.out_features, 4, generator=random),
    }
    plain = run(Forward(model, Levers.none()))
    with lora.worn(model, [lora.Lora(weights, 0.7, "loras[0].path")]):
        expected = run(Forward(model, Levers.none()))
    if detached:
        folding.detach(model)
    forward = Forward(model, FOLDED)
    assert torch.equal(run(forward), plain)
    with lora.worn(model, [lora.Lora(weights, 0.7, "loras[0].path")]):
        assert torch.equal(run(forward), expected)
    assert torch.equal(run(forward), plain)
    assert not torch.allclose(plain, expected, atol=1e-2)


def test_every_parameter_behind_a_table_is_told_from_those_that_no_table_knows() -> None:
    """By gradients: a table's rows depend on a parameter exactly where a LoRA on it makes another table."""
    model = transformer(zero_cond_t=True).requires_grad_(True)
    table = folding.compute.__wrapped__(model, folding.InModule(model), TIMES, torch.float32)
    sum(rows.sum() for rows in (table.image, table.text, table.out, table.clean)).backward()
    for name, parameter in model.named_parameters():
        assert folding.touches_modulation(name) == (parameter.grad is not None), name


def test_the_folder_of_tables_is_bounded_and_those_read_longest_ago_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = transformer(zero_cond_t=True)
    weights = folding.detach(model, "one")
    kept = []
    for time in TIMES:
        before = set(tmp_path.iterdir())
        folding.Folding(model, weights, tmp_path).at(time, torch.float32)
        (new,) = set(tmp_path.iterdir()) - before
        kept.append(new)
        os.utime(new, (len(kept), len(kept)))
    folding.Folding(model, weights, tmp_path).at(TIMES[0], torch.float32)  # read: the second is the oldest now
    monkeypatch.setattr(folding, "FOLDER_BYTES", 3 * kept[0].stat().st_size)
    folding.Folding(model, weights, tmp_path).at(0.1, torch.float32)
    assert not kept[1].exists()
    assert kept[0].exists()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("left_over", ["lora_B.bias", "lora_magnitude_vector"])
def test_a_lora_with_more_than_two_matrices_on_an_absent_layer_is_refused(left_over: str) -> None:
    model = transformer(zero_cond_t=True)
    folding.detach(model)
    weights = {**modulation_lora(model).weights}
    weights[f"transformer.transformer_blocks.0.img_mod.1.{left_over}"] = torch.ones(6 * model.inner_dim)
    with pytest.raises(ValueError, match="no layer for"):
        folding.wear(model, weights, 1.0, "digest")


def test_a_lora_that_leaves_modulation_alone_leaves_the_table_alone() -> None:
    from tests.fakes.loras import random_lora

    model = transformer(zero_cond_t=True)
    folding.detach(model)
    forward = Forward(model, FOLDED)
    run(forward)
    with lora.worn(model, [lora.Lora(random_lora(model), 1.0, "loras[0].path")]):
        run(forward)
    assert forward.folding is not None
    assert forward.folding.computed == 1


def test_a_lora_for_other_blocks_is_refused_and_leaves_nothing_behind() -> None:
    model = transformer(zero_cond_t=True)
    folding.detach(model)
    forward = Forward(model, FOLDED)
    plain = run(forward)
    foreign = {k.replace("blocks.2.", "blocks.7."): v for k, v in modulation_lora(model).weights.items()}
    with (
        pytest.raises(InvalidInput, match=r"loras\[0\]\.path"),
        lora.worn(model, [lora.Lora(foreign, 1.0, "loras[0].path")]),
    ):
        raise AssertionError("it must not be worn")
    assert folding.worn_on_modulation(model) == ()
    assert torch.equal(run(forward), plain)


def test_modulation_by_more_than_the_timestep_is_refused() -> None:
    from diffusers import QwenImageTransformer2DModel

    model = QwenImageTransformer2DModel(
        num_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6), use_additional_t_cond=True,
    )  # fmt: skip
    with pytest.raises(ValueError, match="extra conditions"):
        folding.compute(model, folding.InModule(model), TIMES, torch.float32)
