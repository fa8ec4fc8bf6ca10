"""Edits made ready for training: latents, token ids and what cells show, rendered and encoded once, reused often."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from diffusers import QwenImageEditPlusPipeline
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen2Tokenizer

from darkroom.pocket.stages.cells import Bytes, Encoder
from darkroom.pocket.stages.checkpoint import load_checkpoint, save_checkpoint
from darkroom.pocket.stages.course import Course, OutOfTime
from darkroom.pocket.stages.drawing import Example, draw_one
from darkroom.pocket.stages.sight_stage import see_bytes
from darkroom.pocket.stages.truth import letter_cells, shape_cells
from darkroom.pocket.tokens import EDIT_PREFIX, EDIT_SUFFIX, IMAGE_PREFIX

_NOTHING: Bytes = np.zeros((0, 0, 0, 3), dtype=np.uint8)

# One cell of the transformer: 2 × 2 latents, 16 × 16 pixels.
CELL = 16


# A cell whose shape covers less of it need not name it.
_LEAST_SHARE = 0.25
# The label of cells that nobody knows to hold a shape or a letter, or none.
UNKNOWN = -1


@dataclass
class Pairs:
    """N edits of one size, with R references each, or pictures from words alone (R = 0).

    `source`: [N, R · cells, 64] and `target`: [N, cells, 64], normalised packed latents, float16.
    `changed`: [N, cells], the share of each cell that the edit may change. `seen`: [N, R · cells / 4, width], float16,
    the vision tower's tokens of the references. `named`: [N, R · cells], int8, the shape that each cell of the
    references shows, NO_SHAPE or UNKNOWN. `written`: [N, cells], int8, the letter that each cell of the target shows,
    NO_LETTER or UNKNOWN. `prompts`: token ids of the whole edit prompt. `grid`: (rows, columns)
    of cells of 16 × 16 pixels, the same for the target and every reference.
    """

    source: Tensor
    target: Tensor
    changed: Tensor
    seen: Tensor
    named: Tensor
    written: Tensor
    prompts: list[list[int]]
    kinds: list[str]
    grid: tuple[int, int] = (8, 8)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def references(self) -> int:
        """R: how many pictures each edit has."""
        return self.source.shape[1] // self.target.shape[1]

    @property
    def seen_grids(self) -> list[tuple[int, int]]:
        """(rows, columns) of the vision tower's tokens of each reference."""
        return [(self.grid[0] // 2, self.grid[1] // 2)] * self.references


def prompt_ids(
    tokenizer: Qwen2Tokenizer, instruction: str, seen_grids: Sequence[tuple[int, int]] = ((4, 4),)
) -> list[int]:
    """Token ids of the edit template around `instruction`, with the places of every picture filled in.

    Without pictures those of the text-to-image template.
    """
    pictures = "".join(
        f"Picture {number}: <|vision_start|>{'<|image_pad|>' * (rows * columns)}<|vision_end|>"
        for number, (rows, columns) in enumerate(seen_grids, start=1)
    )
    prefix = EDIT_PREFIX if seen_grids else IMAGE_PREFIX
    ids: list[int] = tokenizer(f"{prefix}{pictures}{instruction}{EDIT_SUFFIX}").input_ids
    return ids


@dataclass(frozen=True)
class Rendered:
    """An example as it travels from the process that drew it: pictures [N, H, W, 3] in 0…255, its cells told.

    `changed`: [cells]. `named`: [R · cells], `written`: [cells], int8.
    """

    kind: str
    instruction: str
    sources: Bytes
    target: Bytes
    looked: Bytes
    changed: NDArray[np.float32]
    named: NDArray[np.int8]
    written: NDArray[np.int8]

    @classmethod
    def of(cls, example: Example) -> Rendered:
        """`example`, its pictures through 8 bits, as every picture that a job brings."""
        sources, target, looked = (
            np.stack([np.round(picture * 255).astype(np.uint8) for picture in pictures]) if pictures else _NOTHING
            for pictures in (example.sources, (example.target,), example.looked)
        )
        changed, named, written = _changed_cells(example.mask), named_cells(example), written_cells(example)
        cells = (changed.numpy(), named.numpy(), written.numpy())
        return cls(example.kind, example.instruction, sources, target, looked, *cells)


def draw_rendered(name: str, seed: int, number: int) -> list[Rendered]:
    """Draw `number` of a set of drawing.SETS."""
    return [Rendered.of(example) for example in draw_one(name, seed, number)]


def encoders_digest(pipeline: QwenImageEditPlusPipeline) -> str:
    """Tells apart VAEs and sights, as files in float16 hold them: what one has encoded means nothing to another."""
    found = hashlib.sha256(repr([list(pipeline.vae.config[name]) for name in ("latents_mean", "latents_std")]).encode())
    for part in (pipeline.vae, pipeline.text_encoder.model.visual):
        for value in part.state_dict().values():
            found.update(value.half().cpu().numpy().tobytes())
    return found.hexdigest()[:8]


def load_or_make(
    path: Path,
    pipeline: QwenImageEditPlusPipeline,
    draw: Callable[[int], list[Rendered]],
    count: int,
    course: Course,
    compiles: bool = False,
) -> Pairs:
    """One shard, draws 0 to `count` - 1, from the file where it was made before; `pipeline` brings VAE and sight.

    `compiles`: as for `Encoder`.

    What OutOfTime interrupts is kept beside it, and the next call goes on from there.
    """
    if not path.exists():
        begun = path.with_name(f"{path.stem}_begun.pt")
        state = load_checkpoint(begun) or {"draw": 0, "skip": 0, "parts": []}
        parts = [Pairs(**part) for part in state["parts"]]
        encoder = Encoder(pipeline.vae, course.device, compiles)
        drawing = _encoded(pipeline, encoder, draw, range(state["draw"], count), state["skip"], course)
        for last, encoded, part in drawing:
            parts.append(part)
            if course.moved(path.stem, last + 1, count):
                save_checkpoint(begun, {"draw": last, "skip": encoded, "parts": [vars(join(parts))]})
                raise OutOfTime(path.stem, last + 1, count)
        save_checkpoint(path, vars(join(parts)))
        begun.unlink(missing_ok=True)
    return Pairs(**torch.load(path, weights_only=True))


def encode_all(pipeline: QwenImageEditPlusPipeline, examples: Iterable[Example]) -> Pairs:
    """Encode `examples`, all of one size and number of pictures."""
    rendered, course = [[Rendered.of(example)] for example in examples], Course()
    encoder = Encoder(pipeline.vae, course.device)
    drawing = _encoded(pipeline, encoder, rendered.__getitem__, range(len(rendered)), 0, course)
    return join([part for *_, part in drawing])


def _encoded(
    pipeline: QwenImageEditPlusPipeline,
    encoder: Encoder,
    draw: Callable[[int], list[Rendered]],
    draws: range,
    skip: int,
    course: Course,
    at_once: int = 24,
) -> Iterator[tuple[int, int, Pairs]]:
    """The examples of `draws` but for the first `skip`, `at_once` at a time, encoded on the course's device.

    With each batch the last draw in it, and how many of that draw's examples it holds.
    """
    drawn = zip(draws, course.drawn(draw, draws), strict=True)
    examples = ((number, example) for number, group in drawn for example in group)
    with course.at(pipeline.text_encoder.model.visual):
        for batch in _batched(islice(examples, skip, None), at_once):
            last = batch[-1][0]
            part = _encode_batch(pipeline, encoder, [example for _, example in batch])
            yield last, sum(number == last for number, _ in batch), part


def _encode_batch(pipeline: QwenImageEditPlusPipeline, encoder: Encoder, examples: Sequence[Rendered]) -> Pairs:
    references = len(examples[0].sources)
    rows, columns = (side // CELL for side in examples[0].target.shape[1:3])
    grids = [(rows // 2, columns // 2)] * references
    sources = [example.sources for example in examples if references]
    encoded = encoder(np.concatenate([*(example.target for example in examples), *sources]))
    target, source = encoded[: len(examples)], encoded[len(examples) :]
    seen = torch.zeros(len(examples), 0, pipeline.text_encoder.config.vision_config.out_hidden_size).half()
    if references:
        with torch.no_grad():
            looked = [picture for example in examples for picture in example.looked]
            seen = see_bytes(pipeline.text_encoder, pipeline.processor, looked).half().cpu()
    return Pairs(
        source=source.reshape(len(examples), references * rows * columns, target.shape[-1]),
        target=target,
        changed=torch.from_numpy(np.stack([example.changed for example in examples])),
        seen=seen.reshape(len(examples), references * rows * columns // 4, seen.shape[-1]),
        named=torch.from_numpy(np.stack([example.named for example in examples])),
        written=torch.from_numpy(np.stack([example.written for example in examples])),
        prompts=[prompt_ids(pipeline.tokenizer, example.instruction, grids) for example in examples],
        kinds=[example.kind for example in examples],
        grid=(rows, columns),
    )


def named_cells(example: Example) -> Tensor:
    """[R · cells], int8: the shape that each cell of the references shows; UNKNOWN where nobody knows."""
    height, width = example.target.shape[:2]
    rows, columns = height // CELL, width // CELL
    if example.items is None:
        return torch.full((len(example.sources) * rows * columns,), UNKNOWN, dtype=torch.int8)
    return torch.from_numpy(shape_cells(example.items, width, height, rows, columns, _LEAST_SHARE)).to(torch.int8)


def written_cells(example: Example) -> Tensor:
    """[cells], int8: the letter that each cell of the target shows; UNKNOWN where nobody knows of a word."""
    height, width = example.target.shape[:2]
    rows, columns = height // CELL, width // CELL
    if example.lettering is None:
        return torch.full((rows * columns,), UNKNOWN, dtype=torch.int8)
    return torch.from_numpy(letter_cells(example.lettering, width, height, rows, columns)).to(torch.int8)


def _batched(examples: Iterator[tuple[int, Rendered]], size: int) -> Iterator[list[tuple[int, Rendered]]]:
    while batch := list(islice(examples, size)):
        yield batch


def join(parts: list[Pairs]) -> Pairs:
    """All pairs of `parts`, in order."""
    assert len({(part.grid, part.references) for part in parts}) == 1
    return replace(
        parts[0],
        source=torch.cat([part.source for part in parts]),
        target=torch.cat([part.target for part in parts]),
        changed=torch.cat([part.changed for part in parts]),
        seen=torch.cat([part.seen for part in parts]),
        named=torch.cat([part.named for part in parts]),
        written=torch.cat([part.written for part in parts]),
        prompts=[prompt for part in parts for prompt in part.prompts],
        kinds=[kind for part in parts for kind in part.kinds],
    )


def _changed_cells(changed: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Tensor:
    mask = torch.from_numpy(changed).float()
    rows, columns = mask.shape[0] // CELL, mask.shape[1] // CELL
    return mask.view(rows, CELL, columns, CELL).mean(dim=(1, 3)).flatten()
