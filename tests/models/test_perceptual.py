"""Feature maps and distances against torchvision and lpips themselves; optical flow against known motion."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from darkroom.models.optical_flow import RAFT_FILE, Dis, Raft, flow_and_mask, load_optical_flow
from darkroom.models.perceptual import (
    TAPS,
    VGG_FILE,
    PocketEncoder,
    VggPerceptual,
    feature_distance,
    load_perceptual,
    load_pocket,
)
from darkroom.technique.warp import warp

CPU = torch.device("cpu")


def picture(seed: int, batch: int = 1, side: int = 48) -> Tensor:
    coarse = torch.rand(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False).clamp(-1, 1)


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's own layers of VGG16 with random weights, saved under torchvision's names."""
    from torchvision.models.vgg import cfgs, make_layers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = make_layers(cfgs["D"])
    path = tmp_path_factory.mktemp("cache") / VGG_FILE
    torch.save({f"features.{name}": value for name, value in layers.state_dict().items()}, path)
    return path


def test_vgg_taps_are_torchvisions_layers_on_imagenets_scale(vgg_file: Path) -> None:
    from torchvision.models.vgg import cfgs, make_layers

    layers = make_layers(cfgs["D"])
    layers.load_state_dict({key.removeprefix("features."): v for key, v in torch.load(vgg_file).items()})
    pixels = picture(1, batch=2)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, expected = ((pixels + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1), []
    for number, layer in enumerate(layers):
        x = layer(x.clone())
        if number in TAPS:
            assert isinstance(layer, nn.ReLU)
            expected.append(x)
    found = VggPerceptual(vgg_file).features(pixels)
    for ours, theirs in zip(found, expected, strict=True):
        # lpips rounds ImageNet's mean and deviation to three digits of its own scale.
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-2)


def test_the_distance_is_lpips_on_the_same_trunk(vgg_file: Path) -> None:
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    ours = VggPerceptual(vgg_file)
    theirs.net.load_state_dict(ours.lpips.net.state_dict())
    one, other = picture(1, batch=2), picture(2, batch=2)
    with torch.no_grad():
        torch.testing.assert_close(ours.distance(one, other), theirs(one, other).flatten())
        assert ours.distance(one, one).abs().max() == 0


def test_what_lies_in_the_cache_decides_and_is_named(vgg_file: Path, tmp_path: Path) -> None:
    assert "VGG16" in load_perceptual(CPU, vgg_file.parent).name
    assert "pocket" in load_perceptual(CPU, tmp_path).name
    assert "DIS" in load_optical_flow(CPU, tmp_path).name


def test_the_shipped_encoder_orders_damage_as_an_eye_would() -> None:
    from darkroom.pocket.world.scenes import draw_scene

    encoder = load_pocket()
    scenes = [draw_scene(np.random.default_rng(7000 + n)).render() for n in range(6)]
    one = torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2) * 2 - 1
    noise = 0.04 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
    blurred = functional.avg_pool2d(functional.pad(one, (2, 2, 2, 2), mode="replicate"), 5, 1)
    distances = [
        encoder.distance(one, other).mean() for other in (one, one + noise, blurred, one.roll(8, -1), one.roll(1, 0))
    ]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert max(distances[1:3]) < 0.1 * distances[4]


def test_the_shipped_encoder_takes_any_size_and_gives_gradients() -> None:
    encoder = load_pocket()
    pixels = picture(3, side=40)[..., :32].clone().requires_grad_()
    maps = encoder.features(pixels)
    assert [tuple(tap.shape[1:]) for tap in maps] == [(16, 40, 32), (32, 20, 16), (64, 10, 8), (96, 5, 4)]
    encoder.distance(pixels, picture(4, side=40)[..., :32]).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    assert not any(weight.requires_grad for weight in encoder.parameters())


def test_the_distance_of_pictures_without_features_is_zero_with_a_finite_gradient() -> None:
    blank = torch.zeros(1, 4, 5, 5, requires_grad=True)
    distance = feature_distance([blank], [torch.zeros(1, 4, 5, 5)])
    distance.sum().backward()
    assert distance == 0
    assert blank.grad is not None
    assert torch.isfinite(blank.grad).all()


def test_perceptual_training_learns_and_repeats(tmp_path: Path) -> None:
    from darkroom.pocket.stages.course import Course
    from darkroom.pocket.stages.encoders import save_half
    from darkroom.pocket.stages.perceptual_stage import PerceptualRecipe, train_perceptual

    recipe = PerceptualRecipe(steps=14, batch=2, pool=6)
    encoder, losses = train_perceptual(recipe, tmp_path / "one.pt", Course())
    again, _ = train_perceptual(recipe, tmp_path / "other.pt", Course())
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), again.parameters(), strict=True))
    assert isinstance(encoder, PocketEncoder)
    assert callable(save_half)


def test_saved_weights_come_back(tmp_path: Path) -> None:
    from darkroom.pocket.stages.encoders import save_half

    encoder = PocketEncoder()
    save_half(encoder, tmp_path / "encoder.safetensors")
    for ours, theirs in zip(
        load_pocket(tmp_path / "encoder.safetensors").parameters(), encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-3, rtol=1e-3)


def photo() -> Tensor:
    with Image.open(Path(__file__).parent.parent / "assets" / "chelsea.jpg") as image:
        small = np.asarray(image.convert("RGB").resize((160, 112)), dtype=np.float32)
    return torch.from_numpy(small).permute(2, 0, 1)[None] / 127.5 - 1


def test_dis_finds_a_known_shift_and_what_left_the_picture() -> None:
    this = photo()
    other = this.roll((2, 5), dims=(2, 3))
    flow, mask = flow_and_mask(Dis(), this, other)
    inner = flow[..., 12:-12, 12:-12]
    assert (inner[:, 0] - 5).abs().median() < 0.3
    assert (inner[:, 1] - 2).abs().median() < 0.3
    assert mask[..., 12:-12, 12:-12].mean() > 0.9
    assert mask[..., -4:].mean() < 0.1
    assert (mask * (warp(other, flow) - this)).abs().mean() < 0.3 * (other - this).abs().mean()


def test_raft_is_taken_from_the_cache_and_takes_any_size(tmp_path: Path) -> None:
    from torchvision.models.optical_flow import raft_large

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference = raft_large(weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / RAFT_FILE)
    found = load_optical_flow(CPU, tmp_path)
    assert isinstance(found, Raft)
    one, other = photo()[..., :100, :132], photo()[..., 4:104, 2:134]
    flow = found(one, other)
    padded = [functional.pad(image, (0, 4, 0, 28), mode="replicate") for image in (one, other)]
    with torch.no_grad():
        torch.testing.assert_close(flow, reference(*padded)[-1][..., :100, :132])
