"""The VAE for one frame is the video VAE on one frame."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from darkroom.models.single_frame import single_frame
from darkroom.pocket.family import assemble


@pytest.fixture(scope="module")
def vae() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = assemble().vae.eval()
    # Convolutions start near zero; weights of ordinary size make the comparison a real one.
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    return model


@torch.no_grad()
def test_encoding_and_decoding_agree_with_diffusers_to_rounding(vae: Any) -> None:
    lean, image = single_frame(vae, share=True), torch.rand(2, 3, 1, 48, 32) * 2 - 1
    theirs = vae.encode(image).latent_dist.mode()
    ours = lean.quant_conv(lean.encoder(image))[:, :16]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    pixels = lean.decoder(lean.post_quant_conv(theirs)).clamp(-1, 1)
    torch.testing.assert_close(pixels, vae.decode(theirs).sample, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_keeps_dtype_and_whether_weights_are_trained(vae: Any, dtype: torch.dtype) -> None:
    frozen = assemble().vae.to(dtype).eval().requires_grad_(False)
    lean = single_frame(frozen, share=True)
    assert {p.dtype for p in lean.parameters()} == {dtype}
    assert not any(p.requires_grad for p in lean.parameters())
    assert not lean.decoder.conv_in.training


def test_sharing_holds_only_the_converted_slices_twice(vae: Any) -> None:
    own = {p.data_ptr() for p in vae.parameters()}
    extra = [p for p in single_frame(vae, share=True).parameters() if p.data_ptr() not in own]
    assert all(p.dim() == 4 for p in extra)
    assert all(p.data_ptr() not in own for p in single_frame(vae).parameters())


def test_the_gradient_of_a_decoded_picture_is_the_video_decoders(vae: Any) -> None:
    lean, tokens = single_frame(vae, share=True), torch.randn(1, 16, 1, 4, 4)

    def gradient(model: Any) -> torch.Tensor:
        latents = tokens.clone().requires_grad_()
        model.decoder(model.post_quant_conv(latents)).square().sum().backward()
        assert latents.grad is not None
        return latents.grad

    torch.testing.assert_close(gradient(lean), gradient(vae), atol=1e-4, rtol=1e-3)
