"""Cases edited with the model's own sight and with the bridge's, by the same seeds, and what came of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from darkroom.media import labelled_grid
from darkroom.models.editor import Editor, References
from darkroom.models.enhanced import EnhancedEditor, Sampling, make_sure
from darkroom.models.vision import Sight
from darkroom.technique.latents import pack
from darkroom.technique.likeness import Pixels, as_pixels, as_tensor
from darkroom.technique.scores import Interval, paired_difference
from darkroom.workers.evaluation.case import Case, Ruler, Scores, Shot, Suite, sized, to_picture

Side = Literal["baseline", "enhanced"]
SIDES: tuple[Side, Side] = ("baseline", "enhanced")
SHOWN = 192
"""Pixels per side of a picture on a sheet, at most."""

Look = Callable[[Shot], Sight]

_RGB = Image.Image


@dataclass
class Tried:
    """One case after all its seeds: scores by side and seed, the ceiling's, and a sheet to look at."""

    number: int
    about: str
    prompt: str
    ceiling: Scores
    scores: dict[Side, list[Scores]] = field(default_factory=lambda: {"baseline": [], "enhanced": []})
    sheet: _RGB = field(default_factory=lambda: Image.new("RGB", (1, 1)))

    def mean(self, side: Side, ruler: str) -> float:
        """Over the seeds."""
        return float(np.mean([scores[ruler] for scores in self.scores[side]]))

    def gain(self, ruler: Ruler) -> float:
        """How much better the bridge made it by this ruler; below 0 is worse."""
        return ruler.sign * (self.mean("enhanced", ruler.name) - self.mean("baseline", ruler.name))


@dataclass(frozen=True)
class Outcome:
    """One ruler over a suite. Means over cases and seeds; the interval is the bootstrap's over cases."""

    ruler: Ruler
    ceiling: float
    baseline: float
    enhanced: float
    difference: Interval

    def entry(self) -> dict[str, Any]:
        """For scores.json."""
        return {
            "what": self.ruler.what,
            "better": self.ruler.better,
            "ceiling": self.ceiling,
            "baseline": self.baseline,
            "enhanced": self.enhanced,
            "difference": self.difference.mean,
            "interval_95": [self.difference.low, self.difference.high],
            "excludes_zero": self.difference.excludes_zero,
        }


class Subject:
    """The editor under test; `look` tells what the other vision model sees of a shot."""

    def __init__(self, enhanced: EnhancedEditor, look: Look, sampling: Sampling) -> None:
        self.enhanced, self.look, self.sampling = enhanced, look, sampling

    @property
    def editor(self) -> Editor:
        """The same one for both sides."""
        return self.enhanced.editor

    def edit(self, shot: Shot, seeds: Sequence[int]) -> Generator[None, None, dict[Side, list[Pixels]]]:
        """Both sides' pictures for each seed, at the source's size; yields after every step of the denoising.

        Raises Internal where the bridge did not do what it must.
        """
        pair = self.enhanced.pair([to_picture(shot.source)], [self.look(shot)], [to_picture(shot.seen)])
        told = [self.enhanced.condition(shot.prompt, side, self.sampling) for side in (pair.baseline, pair.enhanced)]
        make_sure(self.enhanced.bridge, pair, told[0], told[1])
        made: dict[Side, list[Pixels]] = {"baseline": [], "enhanced": []}
        for side, references in zip(SIDES, (pair.baseline, pair.enhanced), strict=True):
            for start in range(0, len(seeds), self.editor.max_batch):
                pictures = yield from self._render(shot.prompt, references, seeds[start:][: self.editor.max_batch])
                made[side] += [sized(pixels, shot.source) for pixels in pictures]
        return made

    def _render(self, prompt: str, references: References, seeds: Sequence[int]) -> Generator[None, None, list[Pixels]]:
        conditioning = self.enhanced.condition(prompt, references, self.sampling, len(seeds))
        for step in self.enhanced.sample(conditioning, self.sampling, seeds):
            latents = step.latents
            yield
        decoded = self.editor.decode(latents, *self.editor.output_size(references, self.sampling.size)).cpu()
        return [as_pixels(image[None]) for image in decoded]

    @torch.no_grad()
    def round_trip(self, picture: Pixels) -> Pixels:
        """Through the VAE alone, at its own area: the most that an edit can keep."""
        height, width = picture.shape[:2]
        native = self.editor.native_size(width, height)
        resized = to_picture(picture).resize(native, Image.Resampling.LANCZOS)
        pixels = as_tensor(np.asarray(resized, dtype=np.float32) / np.float32(255)).to(self.editor.device)
        decoded = self.editor.decode(pack(self.editor.encode(pixels)), *native)
        return sized(as_pixels(decoded.cpu()), picture)


def attempt(subject: Subject, suite: Suite, number: int, seeds: Sequence[int]) -> Generator[None, None, Tried]:
    """One case of a suite, judged; yields after every step of any denoising."""
    case = suite.cases[number]
    targets = [shot.target for shot in case.shots]
    if suite.ceiling == "round trip":
        targets = [subject.round_trip(target) for target in targets]
    made = []
    for shot in case.shots:
        made.append((yield from subject.edit(shot, seeds)))
    tried = Tried(number, case.about, case.shots[0].prompt, case.judge(targets))
    for index in range(len(seeds)):
        for side in SIDES:
            tried.scores[side].append(case.judge([results[side][index] for results in made]))
    tried.sheet = sheet(case, made, seeds)
    return tried


def finished(subject: Subject, suite: Suite, number: int, seeds: Sequence[int]) -> Tried:
    """`attempt` without its pauses, for use outside a job."""
    work = attempt(subject, suite, number, seeds)
    while True:
        try:
            next(work)
        except StopIteration as end:
            tried: Tried = end.value
            return tried


def outcomes(suite: Suite, tried: Sequence[Tried]) -> list[Outcome]:
    """Every ruler of the suite."""
    found = []
    for ruler in suite.rulers:
        before, after = ([case.mean(side, ruler.name) for case in tried] for side in SIDES)
        ceiling = float(np.mean([case.ceiling[ruler.name] for case in tried]))
        difference = paired_difference(before, after)
        found.append(Outcome(ruler, ceiling, float(np.mean(before)), float(np.mean(after)), difference))
    return found


def worst_first(suite: Suite, tried: Sequence[Tried]) -> list[Tried]:
    """Where the bridge harmed most by the suite's first ruler; then where the result is worst."""
    first = suite.rulers[0]
    return sorted(tried, key=lambda case: (case.gain(first), first.sign * case.mean("enhanced", first.name)))


def table(suite: Suite, tried: Sequence[Tried], seeds: Sequence[int]) -> str:
    """CSV: one row for each case, seed and side; the ceiling's rows have no seed."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = [ruler.name for ruler in suite.rulers]
    writer.writerow(["case", "about", "prompt", "side", "seed", *names])
    for case in tried:
        for label, seed, scores in _rows(case, seeds):
            writer.writerow([case.number, case.about, case.prompt, label, seed, *(repr(scores[n]) for n in names)])
    return file.getvalue()


def _rows(case: Tried, seeds: Sequence[int]) -> Iterator[tuple[str, int | str, Scores]]:
    yield "ceiling", "", case.ceiling
    for index, seed in enumerate(seeds):
        for side in SIDES:
            yield side, seed, case.scores[side][index]


def sheet(case: Case, made: Sequence[dict[Side, list[Pixels]]], seeds: Sequence[int]) -> _RGB:
    """What was given, seen, asked for and made: a row for each picture of the case and each seed."""
    rows, labels = [], []
    marked = any(shot.sight is not None for shot in case.shots)
    for number, (shot, results) in enumerate(zip(case.shots, made, strict=True), 1):
        for index, seed in enumerate(seeds):
            given = [shot.source, shot.seen] if marked else [shot.source]
            row = [*given, shot.target, *(results[side][index] for side in SIDES)]
            rows.append([_shown(pixels) for pixels in row])
            labels.append(f"seed {seed}" if len(case.shots) == 1 else f"picture {number}, seed {seed}")
    columns = ["given", *(["seen"] if marked else []), "asked for", *SIDES]
    return labelled_grid(rows, row_labels=labels, column_labels=columns)


def _shown(pixels: Pixels) -> _RGB:
    picture = to_picture(pixels)
    if max(picture.size) <= SHOWN:
        return picture
    shrunk = picture.copy()
    shrunk.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
    return shrunk
