"""The decode that carries gradients is the editor's decode; what it costs is counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from darkroom.models.differentiable import decode_frame, guiding_decoder, recomputing
from darkroom.models.editor import Editor
from darkroom.models.shelf import Shelf
from darkroom.models.single_frame import single_frame
from darkroom.models.specs import PROFILES
from darkroom.pocket.world.scenes import draw_scene
from darkroom.technique.guidance import GuidedStep, Term, guided
from darkroom.technique.latents import pack
from darkroom.technique.losses import edges_like
from darkroom.technique.sampling import Prediction, sample

SIZE = (64, 96)


def tokens(editor: Editor, seed: int = 0) -> Tensor:
    return editor.noise([seed], *SIZE)


def test_it_is_the_editors_decode_without_the_clamp(editor: Editor) -> None:
    pixels = guiding_decoder(editor, *SIZE)(tokens(editor) * 3, None)
    torch.testing.assert_close(pixels.clamp(-1, 1), editor.decode(tokens(editor) * 3, *SIZE), atol=1e-4, rtol=0)


def test_saturated_pixels_keep_their_gradient(editor: Editor) -> None:
    decode = guiding_decoder(editor, *SIZE)
    pixels = decode(tokens(editor), None)
    scale = 0.5 / float(pixels.abs().median())
    leaf = tokens(editor).requires_grad_()
    out = decode(leaf, None) * (4 * scale)
    beyond = out.abs() > 1
    assert beyond.any()
    gradient = torch.autograd.grad((out * beyond).sum(), leaf)[0]
    assert gradient.abs().sum() > 0


def test_the_gradient_is_that_of_the_plain_decoder_and_of_finite_differences(editor: Editor) -> None:
    vae = single_frame(editor.vae).double()
    latents = torch.randn(1, 16, 1, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    direction = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def value(z: Tensor) -> Tensor:
        return torch.sin(decode_frame(vae, z) * 3).sum()

    leaf = latents.clone().requires_grad_()
    ours = torch.autograd.grad(value(leaf), leaf)[0]
    plain = torch.sin(vae.decoder(vae.post_quant_conv(leaf))[:, :, 0] * 3).sum()
    torch.testing.assert_close(ours, torch.autograd.grad(plain, leaf)[0])
    # The class upsamples in float32 whatever comes, so the difference must stand above that rounding.
    slope = (value(latents + 1e-3 * direction) - value(latents - 1e-3 * direction)) / 2e-3
    torch.testing.assert_close((ours * direction).sum(), slope, rtol=1e-3, atol=1e-3)


def test_a_smaller_look_decodes_less_and_roughly_shows_the_same_picture() -> None:
    shipped = Shelf(PROFILES["pocket"]).editor("edit")
    scene = torch.from_numpy(draw_scene(np.random.default_rng(8000), *SIZE).render()).permute(2, 0, 1)[None] * 2 - 1
    latents, decode = pack(shipped.encode(scene)), guiding_decoder(shipped, *SIZE)
    large, small = decode(latents, None), decode(latents, 48)
    assert small.shape == (1, 3, 48, 32)
    assert decode(latents, 96).shape == decode(latents, 500).shape == large.shape == (1, 3, 96, 64)
    alike = torch.corrcoef(torch.stack([small.flatten(), functional.avg_pool2d(large, 2).flatten()]))[0, 1]
    assert alike > 0.8


@pytest.mark.parametrize(("losses", "decodes"), [(1, 2.1), (2, 3.2), (3, 4.2)])
def test_an_iteration_costs_one_decode_and_one_more_per_loss(editor: Editor, losses: int, decodes: float) -> None:
    """The bar is 3.2 decodes: met with one loss and with edges and style; a third loss of full size costs another."""
    decode = guiding_decoder(editor, *SIZE)

    def weighed(pixels: Tensor) -> Tensor:
        return pixels.square().mean(dim=(1, 2, 3))

    chosen = [Term(str(number), weighed, 1.0, frozenset({0})) for number in range(losses)]
    x, sigmas = tokens(editor), torch.tensor([0.5, 0.2, 0.0])
    wrapped = guided(lambda z, sigma: no_velocity(z), chosen, decode, sigmas, lr=0.1)
    with FlopCounterMode(display=False) as one, torch.no_grad():
        decode(x, None)
    with FlopCounterMode(display=False) as counted:
        wrapped(x, sigmas[0])
    assert counted.get_total_flops() <= decodes * one.get_total_flops()


def no_velocity(z: Tensor) -> Prediction:
    return Prediction(torch.zeros_like(z))


@pytest.mark.parametrize("through", ["vae", "transformer"])
def test_a_guided_edit_follows_its_loss_and_leaves_no_trace(editor: Editor, photo: Image.Image, through: str) -> None:
    width, height = SIZE
    references = editor.reference([photo])
    conditioning = editor.condition(["make it green"], references)
    sigmas, noise = editor.sigmas(4, width, height), editor.noise([3], width, height)
    plain = editor.denoiser(conditioning, width, height)
    lines = torch.zeros(1, 1, height, width)
    lines[..., height // 2, :] = 1
    decode, seen = guiding_decoder(editor, width, height), list[GuidedStep]()
    chosen = [Term("edge", edges_like(lines), 1.0, frozenset({1, 2}))]
    denoise = recomputing(editor, plain) if through == "transformer" else plain
    wrapped = guided(denoise, chosen, decode, sigmas, lr=0.05, iterations=2, through=through, report=seen.append)  # type: ignore[arg-type]
    before = [step.latents for step in sample(plain, noise, sigmas)][-1]
    after = [step.latents for step in sample(wrapped, noise, sigmas)][-1]
    again = [step.latents for step in sample(plain, noise, sigmas)][-1]
    loss = edges_like(lines)
    assert float(loss(decode(after, None))) < float(loss(decode(before, None)))
    assert [step.step for step in seen] == [1, 2]
    assert torch.equal(before, again)
    assert not editor.transformer.gradient_checkpointing
    assert not any(weight.grad is not None for weight in editor.vae.parameters())
