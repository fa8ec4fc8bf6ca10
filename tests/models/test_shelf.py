from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from darkroom.errors import ModelNotReady, UnsupportedType
from darkroom.models import weights
from darkroom.models.checkpoint import Unpacked
from darkroom.models.crew import Followers
from darkroom.models.editor import Editor
from darkroom.models.follower import Drop, Order
from darkroom.models.parts import LOADERS, load_schedule
from darkroom.models.placement import PARTS
from darkroom.models.residency import OneAtATime
from darkroom.models.shelf import Shelf, default_budget
from darkroom.models.specs import PROFILES, Card, ModelSpec, Profile, choose, resolve
from darkroom.settings import Settings


def copied(family: Path, folder: Path) -> Path:
    return Path(shutil.copytree(family, folder))


def altered(family: Path, folder: Path, part: str) -> Path:
    """The same checkpoint with one byte of one part's weights changed."""
    copy = copied(family, folder)
    file = next((copy / part).glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return copy


def with_models(profile: Profile, **folders: Path) -> Profile:
    base = profile.models["edit"]
    return replace(profile, models={role: replace(base, repo=str(folder)) for role, folder in folders.items()})


def test_a_model_loads_once_and_stays(profile: Profile) -> None:
    shelf = Shelf(profile)
    assert not shelf.is_warm("edit")
    assert shelf.editor("edit") is shelf.editor("edit")
    assert shelf.is_warm("edit")
    assert shelf.report()["models"]["edit"]["state"] == "warm"


def test_equal_parts_are_shared_wherever_they_lie_and_unequal_ones_are_not(
    profile: Profile, family: Path, tmp_path: Path
) -> None:
    other = altered(family, tmp_path / "video", "transformer")
    shelf = Shelf(with_models(profile, edit=family, video=other))
    edit, video = shelf.editor("edit"), shelf.editor("video")
    assert edit.text_encoder is video.text_encoder
    assert edit.vae is video.vae
    assert edit.transformer is not video.transformer


def test_a_budget_evicts_the_least_recently_used_model_and_keeps_what_is_shared(
    profile: Profile, family: Path, tmp_path: Path
) -> None:
    changed = (("video", "transformer"), ("image", "vae"))
    folders = {name: altered(family, tmp_path / name, part) for name, part in changed}
    roles = with_models(profile, edit=family, **folders)
    checkpoint = Unpacked(family, roles)
    sizes = {part: checkpoint.device_bytes(part) for part in PARTS}
    # Room for two transformers and one of everything else; the slack is for buffers, which files do not hold.
    shelf = Shelf(roles, budget_bytes=sum(sizes.values()) + sizes["transformer"] + 100_000)
    edit = shelf.editor("edit")
    shelf.editor("video")
    shelf.editor("edit")
    shelf.editor("image")
    states = {role: entry["state"] for role, entry in shelf.report()["models"].items()}
    assert states == {"edit": "warm", "video": "cold", "image": "warm"}
    assert shelf.editor("image").transformer is edit.transformer
    assert shelf.budget_bytes is not None
    assert shelf.report()["parts_gib"] * 2**30 <= shelf.budget_bytes


def test_a_model_larger_than_the_budget_says_how_much_it_needs(profile: Profile) -> None:
    with pytest.raises(ModelNotReady, match="DARKROOM_MEMORY_BUDGET_GIB"):
        Shelf(profile, budget_bytes=1_000).editor("edit")


def test_parts_that_are_shared_count_where_a_model_does_not_fit_beside_them(
    profile: Profile, family: Path, tmp_path: Path
) -> None:
    roles = with_models(profile, edit=family, video=altered(family, tmp_path / "video", "transformer"))
    whole = sum(Unpacked(family, roles).device_bytes(part) for part in PARTS)
    shelf = Shelf(roles, budget_bytes=2 * whole)
    shelf.editor("edit")
    shelf.budget_bytes = whole - 100_000
    with pytest.raises(ModelNotReady, match="DARKROOM_MEMORY_BUDGET_GIB"):
        shelf.editor("video")
    assert shelf.report()["parts_gib"] == 0


@pytest.mark.parametrize("fault", [MemoryError, TypeError])
def test_a_loading_that_breaks_off_in_any_way_leaves_no_half_model(
    profile: Profile, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    def broken(*_: object) -> None:
        raise fault

    shelf = Shelf(profile)
    with monkeypatch.context() as patch:
        patch.setitem(LOADERS, "transformer", broken)  # type: ignore[arg-type]
        with pytest.raises(fault):
            shelf.editor("edit")
    report = shelf.report()
    assert (report["models"]["edit"]["state"], report["parts_gib"]) == ("failed", 0)
    assert shelf.editor("edit").whole


class Told:
    """A crew without processes, which notes what it is told."""

    def __init__(self) -> None:
        self.orders: list[tuple[int, Order]] = []

    def load(self, _: Path) -> Followers:
        return Followers(self, 7)  # type: ignore[arg-type]

    def tell_if_whole(self, number: int, order: Order) -> None:
        self.orders.append((number, order))


def test_followers_let_go_of_a_transformer_whose_model_failed_here(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    shelf, crew = Shelf(profile), Told()
    shelf.crew = crew  # type: ignore[assignment]
    monkeypatch.setitem(LOADERS, "vae", full)  # type: ignore[arg-type]
    with pytest.raises(torch.OutOfMemoryError):
        shelf.editor("edit")
    assert crew.orders == [(7, Drop())]


def test_missing_weights_name_the_folder_and_the_way_out_and_a_later_try_succeeds(
    profile: Profile, family: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "gone"
    shelf = Shelf(with_models(profile, edit=folder))
    with pytest.raises(ModelNotReady, match="'gone'"):
        shelf.editor("edit")
    assert shelf.report()["models"]["edit"]["state"] == "failed"
    copied(family, folder)
    assert isinstance(shelf.editor("edit"), Editor)
    assert "problem" not in shelf.report()["models"]["edit"]


def test_health_says_which_lever_does_not_work(profile: Profile) -> None:
    from diffusers import FirstBlockCacheConfig

    shelf = Shelf(profile)
    transformer = shelf.editor("edit").transformer
    assert "problem" not in shelf.report()["models"]["edit"]
    transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    assert "a cache of diffusers is on" in shelf.report()["models"]["edit"]["problem"]
    transformer.disable_cache()
    assert "problem" not in shelf.report()["models"]["edit"]


def test_a_missing_part_is_named(profile: Profile, family: Path, tmp_path: Path) -> None:
    folder = copied(family, tmp_path / "half")
    shutil.rmtree(folder / "vae")
    with pytest.raises(ModelNotReady, match="'vae'"):
        Shelf(with_models(profile, edit=folder)).editor("edit")


def test_truncated_weights_fail_the_model_and_not_the_worker(profile: Profile, family: Path, tmp_path: Path) -> None:
    folder = copied(family, tmp_path / "cut")
    file = next((folder / "transformer").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    shelf = Shelf(with_models(profile, edit=folder, video=family))
    with pytest.raises(ModelNotReady, match="'cut'"):
        shelf.editor("edit")
    assert str(tmp_path) not in str(shelf.report())
    assert isinstance(shelf.editor("video"), Editor)


def test_a_role_that_a_profile_lacks_is_unsupported(profile: Profile) -> None:
    with pytest.raises(UnsupportedType, match="vision"):
        Shelf(profile).editor("vision")


def test_a_scheduler_of_another_kind_is_refused(family: Path, tmp_path: Path) -> None:
    folder = copied(family, tmp_path / "karras") / "scheduler"
    config = folder / "scheduler_config.json"
    config.write_text(config.read_text().replace('"use_karras_sigmas": false', '"use_karras_sigmas": true'))
    with pytest.raises(ModelNotReady, match="use_karras_sigmas"):
        load_schedule(folder)


def test_checksums_name_the_damaged_file(family: Path, tmp_path: Path) -> None:
    folder = copied(family, tmp_path / "listed")
    file = next((folder / "vae").glob("*.safetensors"))
    name = str(file.relative_to(folder))
    listing = {"version": weights.CHECKSUMS_VERSION, "files": {name: weights.sha256(file)}}
    (folder / weights.CHECKSUMS).write_text(str(listing).replace("'", '"'))
    weights.verify(folder)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelNotReady, match=name):
        weights.verify(folder)
    file.unlink()
    with pytest.raises(ModelNotReady, match="missing"):
        weights.verify(folder)


@pytest.mark.parametrize(
    ("card", "name"),
    [
        (None, "pocket"),
        (Card(139.8, (9, 0)), "h200"),
        (Card(79.2, (8, 0)), "a100"),
        (Card(79.6, (9, 0)), "a100"),
        (Card(44.4, (8, 6)), "a6000"),
        (Card(22.0, (8, 9)), "l4"),
        (Card(23.6, (8, 9)), "l4"),
        (Card(23.6, (8, 6)), "rtx3090"),
        (Card(15.7, (8, 9)), "rtx3090"),
    ],
)
def test_auto_goes_by_memory_and_by_whether_the_chip_has_fp8(card: Card | None, name: str) -> None:
    assert choose(card) == name
    assert resolve(Settings(profile="auto"), card).name == name


def test_settings_name_models_per_role() -> None:
    profile = resolve(Settings(profile="a100", edit_model="me/mine", video_revision="abc"), None)
    assert profile.models["edit"].repo == "me/mine"
    assert profile.models["video"] == replace(PROFILES["a100"].models["video"], revision="abc")


def test_the_budget_is_the_cards_memory_less_the_reserve_unless_set() -> None:
    card = Card(80.0, (8, 0))
    assert default_budget(PROFILES["a100"], card, None) == (74 * 2**30)
    assert default_budget(PROFILES["a100"], card, 10.0) == 10 * 2**30
    assert default_budget(PROFILES["pocket"], None, None) is None


def test_parts_that_visit_the_device_one_at_a_time_move_only_when_their_turn_comes() -> None:
    moves: list[tuple[str, str]] = []

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        def to(self, device: object) -> None:
            moves.append((self.name, str(device)))

    residency, a, b = OneAtATime(torch.device("meta")), Part("a"), Part("b")
    for part in (a, a, b, b, a):
        residency.use(part)
    assert moves == [("a", "meta"), ("a", "cpu"), ("b", "meta"), ("b", "cpu"), ("a", "meta")]


def test_a_part_that_does_not_fit_goes_back_and_the_others_still_work() -> None:
    class Part:
        def __init__(self, fits: bool = True) -> None:
            self.fits, self.place = fits, "cpu"

        def to(self, device: object) -> None:
            self.place = str(device)
            if not self.fits and self.place != "cpu":
                raise torch.OutOfMemoryError("no room")

    residency, small, large = OneAtATime(torch.device("meta")), Part(), Part(fits=False)
    residency.use(small)
    with pytest.raises(torch.OutOfMemoryError):
        residency.use(large)
    assert large.place == "cpu"
    residency.use(small)
    assert small.place == "meta"


def test_a_device_fault_while_loading_is_not_told_as_a_bad_file(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setitem(LOADERS, "vae", broken)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="CUDA error"):
        Shelf(profile).editor("edit")


def test_a_folder_outside_the_hub_keeps_its_place_to_itself(tmp_path: Path) -> None:
    from darkroom.models.shelf import public_id

    assert public_id(ModelSpec(str(tmp_path / "deep" / "inside" / "model"))) == "inside/model"
    assert public_id(ModelSpec("Qwen/Qwen-Image")) == "Qwen/Qwen-Image"


@pytest.mark.parametrize("listing", ["{", "[]", '{"version": 0, "files": {}}'])
def test_a_list_of_checksums_that_is_damaged_or_of_another_version_is_named(
    family: Path, tmp_path: Path, listing: str
) -> None:
    folder = copied(family, tmp_path / "old")
    (folder / weights.CHECKSUMS).write_text(listing)
    with pytest.raises(ModelNotReady, match=r"checksums\.json"):
        weights.verify(folder)
