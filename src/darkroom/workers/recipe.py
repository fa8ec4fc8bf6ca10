"""What a recipe is, what it works with, and what it hands out on the way."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom.artifacts import Artifact
from darkroom.errors import InvalidInput
from darkroom.jobs import Limits
from darkroom.models.editor import Editor
from darkroom.models.precision import WITHOUT_GRADIENTS
from darkroom.models.shelf import Shelf
from darkroom.timing import Clock

POLL_SECONDS = 0.1
"""Between two looks at a cancel or the time limit while a model loads."""


@dataclass(frozen=True)
class Progress:
    """Work done so far, in units of the recipe's own (denoising steps as a rule); `more` says what else is known."""

    stage: str
    done: int
    total: int
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unencoded:
    """A file whose bytes are still to be made: beside the torch thread, which PNG and WebP would hold up.

    encode: called once, on another thread; holds pixels on the CPU and nothing of the device.
    """

    encode: Callable[[], Artifact]


@dataclass(frozen=True)
class Streamed:
    """A file to be stored and announced as soon as it is made, while the recipe goes on.

    encode: as `Unencoded`'s. record: JSON values that a later try of the job needs to go on after this file; it finds
    them as `Desk.earlier`. Files are stored in the order in which they are yielded.
    """

    encode: Callable[[], Artifact]
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """A file that has been stored: its line in the manifest, and the recipe's own record of it."""

    entry: dict[str, Any]
    record: dict[str, Any]


def _unheard(_progress: Progress) -> None:
    """For a job whose progress nobody follows."""


def _nothing_stored(name: str) -> bytes:
    raise KeyError(name)


@dataclass
class Desk:
    """One job's working place; nothing on it outlives the job but the shelf.

    files: bytes of every fetched source, by field name. prepared: what the recipe's `prepare` made of them; it says
    its own progress by `tell`, which raises Cancelled once the job is.
    clock: spans end up in the reply's timings.
    preload: roles that the worker loads at start. cold: set where the job pays for loading a model.
    warnings: sentences that the reply repeats; every fallback and every ignored wish belongs here.
    clips: videos and archives, as files. folder: room for files of a recipe that streams; gone with the job.
    earlier: what an earlier try of a job that streams has stored, in order; `read_stored` gives such a file's bytes,
    and raises KeyError or FetchFailed.
    """

    shelf: Shelf
    limits: Limits
    files: Mapping[str, bytes] = field(default_factory=dict)
    lora_dir: Path | None = None
    clock: Clock = field(default_factory=Clock)
    warnings: list[str] = field(default_factory=list)

    cold: bool = False
    preload: Sequence[str] = ()
    prepared: Any = None
    tell: Callable[[Progress], None] = _unheard
    clips: Mapping[str, Path] = field(default_factory=dict)
    folder: Path = Path()
    earlier: Sequence[Stored] = ()
    read_stored: Callable[[str], bytes] = _nothing_stored

    def editor(self, role: str, *, whole: bool = True) -> Editor:
        """The role's editor; the wait for it counts as `load` and makes the job a cold one.

        whole: False gives one that can encode, whose transformer may still be loading: ask for `finished` before it
        denoises. What the job does meanwhile counts as what it is, so that `load` is waiting alone.
        """
        self.cold = self.cold or not self.shelf.is_warm(role)
        with self.clock.span("load"):
            return self.shelf.editor(role, whole=whole)

    def finished(self, editor: Editor) -> Generator[Event, None, None]:
        """Wait for an editor's transformer, as `load`; yields meanwhile, so that the job can be cancelled."""
        while not editor.whole:
            with self.clock.span("load"):
                if editor.came(POLL_SECONDS):
                    editor.finish()
            if not editor.whole:
                yield Progress("load", 0, 1)

    def warn(self, sentence: str) -> None:
        """Say something in the reply, once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)


Event = Progress | Artifact | Unencoded | Streamed
Work = Generator[Event, None, dict[str, Any]]
"""Yields between any two pieces of work that may be cancelled apart; returns the reply's own fields."""


@dataclass(frozen=True)
class Recipe:
    """How a job type is run.

    exclusive: it needs the torch thread; the others answer beside a running job. prepare: what can be done before
    that thread is free, such as decoding sources; its result lies on the desk as `prepared`. streams: it yields
    `Streamed` files, works in a folder of its own and goes on where an earlier try stopped.
    """

    start: Callable[[Any, Desk], Work]
    exclusive: bool = True
    prepare: Callable[[Any, Desk], Any] | None = None
    streams: bool = False


def need_gradients(desk: Desk, field: str, instead: str) -> None:
    """Raises InvalidInput about `field`, with `instead` as the way out, where this worker's transformer passes none."""
    profile = desk.shelf.profile
    if profile.gpus > 1:
        where = "of a worker with several GPUs (DARKROOM_GPUS)"
    elif profile.precision in WITHOUT_GRADIENTS:
        where = f"in {profile.precision} (DARKROOM_PRECISION: bf16 and fp8_storage pass them)"
    else:
        return
    raise InvalidInput(f"{field}: no gradients go through the transformer {where}; {instead}", field=field)
