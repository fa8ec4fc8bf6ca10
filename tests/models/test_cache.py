"""Encodings kept by content: bounded, exact, and never given to a question that differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from darkroom.models.cache import Counts, Encodings, TensorCache, picture_key, tensor_key
from darkroom.models.editor import Editor
from darkroom.models.shelf import Shelf
from darkroom.models.sight import VisualTokens
from darkroom.models.specs import resolve
from darkroom.settings import Settings


def tensors(*values: float) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: tuple(torch.full((4,), value) for value in values)


def never() -> tuple[Tensor, ...]:
    raise AssertionError("an encoder ran although the cache knows the answer")


def test_the_least_recently_used_go_first() -> None:
    cache = TensorCache(limit_bytes=32)
    for key in "ab":
        cache.get(key, tensors(1.0))
    cache.get("a", never)
    cache.get("c", tensors(3.0))
    assert cache.get("a", never)[0].tolist() == [1.0] * 4
    with pytest.raises(AssertionError):
        cache.get("b", never)
    assert cache.report()["entries"] == 2


@given(
    limit=st.integers(0, 200),
    questions=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 30)), max_size=40),
)
def test_the_limit_holds_and_bytes_are_counted_exactly(limit: int, questions: list[tuple[int, int]]) -> None:
    cache, sizes = TensorCache(limit), dict[int, int]()
    for key, size in questions:
        size = sizes.setdefault(key, size)
        found = cache.get(key, lambda key=key, size=size: (torch.full((size,), float(key)),))[0]
        assert torch.equal(found, torch.full((size,), float(key)))
        held = [kept for entry in cache._kept.values() for kept in entry.tensors]
        assert sum(tensor.untyped_storage().nbytes() for tensor in held) == cache._bytes <= limit


def test_a_view_keeps_no_larger_tensor_alive() -> None:
    cache = TensorCache(limit_bytes=1000)
    cache.get("a", lambda: (torch.zeros(100_000)[-10:],))
    (kept,) = cache._kept["a"].tensors
    assert kept.untyped_storage().nbytes() == 40


def test_what_is_larger_than_the_whole_cache_throws_nothing_out() -> None:
    cache = TensorCache(limit_bytes=16)
    cache.get("small", tensors(1.0))
    cache.get("large", tensors(1.0, 2.0))
    cache.get("small", never)


def test_an_encoder_that_fails_leaves_nothing_behind() -> None:
    cache = TensorCache(limit_bytes=100)
    with pytest.raises(AssertionError):
        cache.get("a", never)
    assert cache.get("a", tensors(2.0))[0].tolist() == [2.0] * 4


def test_keys_tell_apart_what_differs_in_any_way() -> None:
    wide, tall = Image.new("L", (4, 2)), Image.new("L", (2, 4))
    assert len({picture_key(image) for image in (wide, tall, wide.convert("P"), Image.new("L", (4, 2), 1))}) == 4
    zeros = torch.zeros(2, 2)
    others = (zeros, zeros.reshape(4), zeros.half(), torch.zeros(4, dtype=torch.bfloat16), -zeros, zeros + 1)
    assert len({tensor_key(tensor) for tensor in others}) == len(others)
    assert tensor_key(torch.arange(6).reshape(2, 3).T) == tensor_key(torch.arange(6).reshape(2, 3).T.contiguous())


def test_models_and_visual_tokens_of_other_values_share_nothing() -> None:
    cache = TensorCache(10_000)
    ours, theirs = Encodings(cache, "a"), Encodings(cache, "b")
    seen = VisualTokens(torch.zeros(1, 2), torch.ones(1, 3))
    bridged = VisualTokens(torch.full((1, 2), 1e-6), seen.grids)
    for encodings, visual in ((ours, seen), (theirs, seen), (ours, bridged)):
        encodings.prompt("red", visual, lambda: torch.zeros(1))
    assert ours.counts == Counts(hits=0, misses=3)
    ours.prompt("red", seen, lambda: torch.ones(1))
    assert ours.counts == Counts(hits=1, misses=3)


# -- with a model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(family: Path) -> Shelf:
    return Shelf(resolve(Settings(profile="pocket", edit_model=str(family)), None))


@contextmanager
def counted(editor: Editor) -> Iterator[dict[str, int]]:
    """How often each encoder runs inside the block."""
    runs = {"vision": 0, "language": 0, "vae": 0}
    parts = {
        "vision": editor.text_encoder.model.visual,
        "language": editor.text_encoder.model.language_model,
        "vae": editor.frame_vae.encoder,
    }

    def count(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            runs[name] += 1

        return hook

    hooks = [part.register_forward_hook(count(name)) for name, part in parts.items()]
    try:
        yield runs
    finally:
        for hook in hooks:
            hook.remove()


def test_the_same_photo_and_prompt_twice_runs_no_encoder_and_gives_the_same_bits(shelf: Shelf) -> None:
    editor = shelf.editor("edit")
    photo, other = Image.effect_mandelbrot((96, 64), (-2, -1, 1, 1), 50).convert("RGB"), Image.new("RGB", (64, 64))
    with counted(editor) as runs:
        fresh = editor.condition(["red", "blue"], editor.reference([photo]), negative_prompt=" ")
        assert runs == {"vision": 1, "language": 3, "vae": 1}
        again = editor.condition(["red", "blue"], editor.reference([photo]), negative_prompt=" ")
        assert runs == {"vision": 1, "language": 3, "vae": 1}
        editor.condition(["red"], editor.reference([other, photo]))
        assert runs == {"vision": 2, "language": 4, "vae": 2}
    assert torch.equal(fresh.references.latents, again.references.latents)
    assert torch.equal(fresh.references.visual.tokens, again.references.visual.tokens)
    for one, two in zip((*fresh.prompts, fresh.negative), (*again.prompts, again.negative), strict=True):
        assert torch.equal(one, two)
    uncached = Editor(**{name: getattr(editor, name) for name in ("transformer", "vae", "text_encoder", "processor",
                         "schedule", "areas", "levers")})  # fmt: skip
    plain = uncached.condition(["red", "blue"], uncached.reference([photo]), negative_prompt=" ")
    assert torch.equal(plain.prompts[1], again.prompts[1])
    assert torch.equal(plain.references.latents, again.references.latents)


def test_health_tells_the_use_and_0_mib_keeps_nothing(family: Path) -> None:
    shelf = Shelf(resolve(Settings(profile="pocket", edit_model=str(family), cache_mib=0), None))
    editor = shelf.editor("edit")
    for _ in range(2):
        with counted(editor) as runs:
            editor.reference([Image.new("RGB", (64, 64))])
        assert runs["vae"] == 1
    assert shelf.report()["encodings"] == {"entries": 0, "mib": 0.0, "limit_mib": 0.0, "hits": 0, "misses": 0}
