from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from darkroom.errors import InvalidInput, ModelNotReady
from darkroom.models import full_size, lora
from darkroom.models.editor import Editor
from darkroom.models.parts import LOADERS
from darkroom.models.placement import PARTS, HostEmbedding, Weight, occupied_bytes, shapes, weigh
from darkroom.models.precision import SCHEMES, Nf4, RowScaledFp8, RowScaledInt8, Scheme, require
from darkroom.models.shelf import Shelf
from darkroom.models.specs import PROFILES, Card, Precision, Profile
from darkroom.technique.sampling import sample
from tests.fakes.loras import random_lora

FP8, FP8_STORAGE, INT8, NF4 = RowScaledFp8(products=True), RowScaledFp8(products=False), RowScaledInt8(), Nf4()
# bitsandbytes is an extra of its own (four-bit), because peft imports it at every start where it is installed.
FOUR_BIT = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra four-bit is not installed")
QUANTISED = ["fp8", "fp8_storage", "int8", pytest.param("int4", marks=FOUR_BIT)]


def linear(rows: int = 96, columns: int = 64) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(columns, rows).bfloat16().requires_grad_(False)


def quantised(scheme: Scheme) -> nn.Linear:
    layer = linear()
    return scheme.attach(layer, scheme.quantised(layer.weight.detach()), torch.bfloat16)


def rows_off(got: Tensor, wanted: Tensor) -> Tensor:
    """The largest error of each row, relative to that row's largest value."""
    return (got - wanted).abs().amax(1) / wanted.abs().amax(1)


@pytest.mark.parametrize(("scheme", "bound"), [(FP8, 2**-4), (INT8, 0.5 / 127)])
def test_a_row_is_off_by_no_more_than_half_a_step_of_its_own_scale(scheme: Scheme, bound: float) -> None:
    """e4m3 has three bits of mantissa: half a step is 2⁻⁴ of a value. INT8's is half of 1/127 of the row's largest."""
    wanted = linear().weight.float() * torch.logspace(-3, 3, 96)[:, None]
    stored = scheme.quantised(wanted)
    assert stored["_scale"].shape == (96, 1)
    assert rows_off(stored[""].float() * stored["_scale"], wanted).max() <= bound * 1.01


@pytest.mark.parametrize("scheme", [FP8, INT8])
def test_a_row_of_zeros_stays_zero(scheme: Scheme) -> None:
    weight = linear().weight.clone()
    weight[3] = 0
    stored = scheme.quantised(weight)
    assert torch.equal(stored[""][3].float() * stored["_scale"][3], torch.zeros(64))


@pytest.mark.parametrize("scheme", [FP8_STORAGE, pytest.param(NF4, marks=FOUR_BIT)])
def test_a_stored_matrix_computes_as_its_widened_self(scheme: Scheme) -> None:
    layer, x = quantised(scheme), torch.randn(2, 5, 64).bfloat16()
    widened = layer(torch.eye(64).bfloat16()) - layer.bias  # columns of the matrix that the layer multiplies with
    assert (layer(x).float() - (x.float() @ widened.float() + layer.bias.float())).abs().max() < 0.02


@pytest.mark.parametrize(("scheme", "bound"), [(FP8, 0.04), (INT8, 0.012)])
def test_products_of_eight_bits_are_near_those_of_the_widened_matrix(scheme: Scheme, bound: float) -> None:
    """The rest is the rounding of activations: in FP8 up to 2⁻⁴ of a value, 2 to 3 % in the mean."""
    layer, x = quantised(scheme), torch.randn(4, 16, 64).bfloat16()
    wanted = x.float() @ layer.weight.dequantize().float().T + layer.bias.float()  # type: ignore[operator]
    assert 0 < (layer(x).float() - wanted).norm() < bound * wanted.norm()


@pytest.mark.parametrize("scheme", [FP8, INT8])
def test_tokens_of_zeros_give_the_bias(scheme: Scheme) -> None:
    layer = quantised(scheme)
    assert torch.equal(layer(torch.zeros(1, 3, 64).bfloat16()), layer.bias.expand(1, 3, 96))


@pytest.mark.parametrize("scheme", [FP8, INT8, pytest.param(NF4, marks=FOUR_BIT)])
def test_bytes_are_those_that_are_stored(scheme: Scheme) -> None:
    stored = scheme.quantised(linear(256, 192).weight.detach())
    assert sum(t.nbytes for t in stored.values()) == pytest.approx(scheme.bytes(256, 192), abs=8)


@pytest.mark.parametrize("precision", ["float32", "bf16", *QUANTISED])
@pytest.mark.parametrize("part", PARTS)
def test_what_a_part_weighs_is_known_before_it_is_loaded(family: Path, part: str, precision: Precision) -> None:
    with torch.no_grad():
        module = LOADERS[part](family / part, precision)
    buffers = sum(b.nbytes for b in module.buffers())
    weight = weigh(part, shapes(LOADERS[part](family / part, "float32")), precision)
    # The few letters of bitsandbytes' description vary in number.
    matrices = sum(1 for _ in module.modules())
    assert occupied_bytes(module) - buffers == pytest.approx(weight.device + weight.modulation, abs=8 * matrices)


def test_only_the_matrices_of_repeated_layers_are_quantised(family: Path) -> None:
    transformer = LOADERS["transformer"](family / "transformer", "fp8")
    names = {name for name, parameter in transformer.named_parameters() if hasattr(parameter, "qdata")}
    assert all(name.startswith("transformer_blocks.") and "_mod." not in name for name in names)
    assert len(names) == 12 * len(transformer.transformer_blocks)
    assert {p.dtype for p in transformer.parameters()} == {torch.bfloat16}


# -- a whole edit -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> Profile:
    """The shipped miniature, whose numbers are not noise."""
    return PROFILES["pocket"]


@pytest.fixture(scope="module")
def in_float32(trained: Profile) -> Tensor:
    return rendered(Shelf(trained).editor("edit"))


@pytest.mark.parametrize(
    ("precision", "least"),
    [("bf16", 43.0), ("fp8", 32.0), ("fp8_storage", 34.0), ("int8", 36.0), pytest.param("int4", 25.0, marks=FOUR_BIT)],
)
def test_an_edit_stays_near_its_float32_self(
    trained: Profile, in_float32: Tensor, precision: Precision, least: float
) -> None:
    with torch.no_grad():
        got = rendered(Shelf(replace(trained, precision=precision)).editor("edit"))
    assert psnr(got, in_float32) > least


@pytest.mark.parametrize("precision", QUANTISED)
def test_a_lora_works_on_quantised_matrices_and_leaves_nothing_behind(
    profile: Profile, precision: Precision
) -> None:
    editor = Shelf(replace(profile, precision=precision, models={"edit": profile.models["edit"]})).editor("edit")
    plain = rendered(editor, steps=1)
    with lora.worn(editor.transformer, [lora.Lora(random_lora(editor.transformer, 0.3), 1.0, "loras[0].path")]):
        worn = rendered(editor, steps=1)
    assert not torch.equal(plain, worn)
    assert torch.equal(rendered(editor, steps=1), plain)


def test_a_lora_adds_the_same_to_a_quantised_matrix_as_to_a_plain_one(family: Path) -> None:
    plain = LOADERS["transformer"](family / "transformer", "bf16")
    stored = LOADERS["transformer"](family / "transformer", "fp8_storage")
    weights = random_lora(plain, 0.3)
    name, x = "transformer_blocks.0.attn.to_q", torch.randn(1, 4, plain.inner_dim).bfloat16()
    added = []
    for model in (plain, stored):
        before = model.get_submodule(name)(x)
        with lora.worn(model, [lora.Lora(weights, 1.0, "loras[0].path")]):
            added.append(model.get_submodule(name)(x) - before)
    assert added[0].abs().max() > 0
    assert (added[0] - added[1]).abs().max() <= 0.02 * added[0].abs().max()


def rendered(editor: Editor, steps: int = 4) -> Tensor:
    with Image.open(Path(__file__).parent.parent / "assets" / "astronaut.jpg") as image:
        references = editor.reference([image.convert("RGB").resize((128, 128))])
    conditioning = editor.condition(["make it red"], references, " ")
    latents = editor.noise([1], 128, 128)
    for step in sample(editor.denoiser(conditioning, 128, 128, 2.0), latents, editor.sigmas(steps, 128, 128)):
        latents = step.latents
    return editor.decode(latents, 128, 128)


def psnr(got: Tensor, wanted: Tensor) -> float:
    """In dB, of pixels in -1…1."""
    return float(-10 * torch.log10(((got - wanted) / 2).square().mean()))


def test_a_refused_lora_leaves_no_layer_behind(editor: Editor) -> None:
    names = [name for name, _ in editor.transformer.named_modules()]
    good = random_lora(editor.transformer)
    misfit = {key: value[:, :3] if "lora_A" in key else value for key, value in good.items()}
    for bad in (misfit, {"foo": torch.zeros(1)}):
        with (
            pytest.raises(InvalidInput, match=r"loras\[0\]"),
            lora.worn(editor.transformer, [lora.Lora(bad, 1.0, "loras[0].path")]),
        ):
            pass
        assert [name for name, _ in editor.transformer.named_modules()] == names


def test_memory_that_runs_out_while_a_lora_goes_on_is_not_the_loras_fault(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(editor.transformer), "load_lora_adapter", full)
    worn = lora.worn(editor.transformer, [lora.Lora(random_lora(editor.transformer), 1.0, "loras[0].path")])
    with pytest.raises(torch.OutOfMemoryError), worn:
        pass


# -- the real size ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parameters() -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    return {part: shapes(full_size.on_meta(part)) for part in PARTS}


def weights(parameters: dict[str, Any], precision: Precision) -> dict[str, Weight]:
    return {part: weigh(part, parameters[part], precision) for part in PARTS}


def test_the_architecture_is_the_published_one(parameters: dict[str, Any]) -> None:
    """20.43 B, 8.29 B and 127 M parameters: 57.7 GB in bf16."""
    count = {part: sum(torch.Size(shape).numel() for _, shape in parameters[part]) for part in PARTS}
    assert count == {"transformer": 20_430_401_088, "text_encoder": 8_292_166_656, "vae": 126_892_531}
    assert 2 * sum(count.values()) == pytest.approx(57.7e9, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "card", "gib"),
    [("l4", 22.5, 20.0), ("a6000", 44.4, 39.5), ("a100", 79.2, 40.0), ("h200", 139.0, 40.0), ("rtx3090", 23.6, 14.0)],
)
def test_a_folded_family_fits_its_card_with_room_for_an_edit(
    parameters: dict[str, Any], name: str, card: float, gib: float
) -> None:
    profile = PROFILES[name]
    held = sum(weight.device for weight in weights(parameters, profile.precision).values()) / 2**30
    assert held <= gib
    assert held + profile.reserve_gib <= card


def test_a_cold_start_in_fp8_reads_less_than_22_gb(parameters: dict[str, Any]) -> None:
    """Token embeddings are mapped, modulation is read off tables; both stay out of it."""
    assert sum(weight.device for weight in weights(parameters, "fp8").values()) <= 22e9


# -- what a chip can do -----------------------------------------------------------------------------

A100, L4, H100, TURING = (
    Card(79.2, (8, 0), "A100"), Card(22.0, (8, 9), "L4"), Card(79.6, (9, 0), "H100"), Card(15.0, (7, 5), "T4"),
)


@pytest.mark.parametrize(("precision", "card"), [("fp8", A100), ("int8", TURING), ("bf16", TURING)])
def test_a_chip_that_cannot_is_refused_by_name_with_what_it_can(precision: Precision, card: Card) -> None:
    with pytest.raises(ModelNotReady, match=rf"DARKROOM_PRECISION.*{precision}.*{card.name}.*int4"):
        require(precision, card)


@pytest.mark.parametrize("card", [A100, L4, H100, None])
def test_every_precision_that_a_chip_has_is_taken(card: Card | None) -> None:
    for precision in SCHEMES:
        if precision != "int4" and not (precision == "fp8" and card is A100):
            require(precision, card)


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="the extra four-bit is installed")
def test_four_bits_without_their_library_name_it(profile: Profile) -> None:
    with pytest.raises(ModelNotReady, match=r"bitsandbytes.*four-bit"):
        Shelf(replace(profile, precision="int4")).editor("edit")


def test_embeddings_stay_with_the_host_and_give_the_same_rows() -> None:
    table = torch.randn(10, 4)
    embedding = HostEmbedding(table).to("meta")
    assert embedding.weight.device.type == "cpu"
    ids = torch.tensor([[1, 5, 1]])
    assert torch.equal(embedding(ids), nn.functional.embedding(ids, table))
