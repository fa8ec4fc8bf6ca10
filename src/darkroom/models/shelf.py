"""The shelf: models are loaded once, stay warm, share equal parts, and make room for each other."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Image

from darkroom.errors import DarkroomError, ModelNotReady, UnsupportedType
from darkroom.faults import is_the_devices
from darkroom.models.cache import MIB, Encodings, TensorCache
from darkroom.models.captions import describe_all, described_bytes
from darkroom.models.checkpoint import Checkpoint, open_checkpoint
from darkroom.models.crew import Crew, Followers
from darkroom.models.editor import Editor
from darkroom.models.late import Late, Take
from darkroom.models.likeness import Rulers, load_rulers
from darkroom.models.optical_flow import OpticalFlow, load_optical_flow
from darkroom.models.parts import load_processor, load_schedule
from darkroom.models.perceptual import Perceptual, load_perceptual
from darkroom.models.placement import PARTS, occupied_bytes
from darkroom.models.precision import require
from darkroom.models.residency import OneAtATime, Resident, Visiting
from darkroom.models.specs import Card, ModelSpec, Precision, Profile
from darkroom.models.vision import VisionExtractor, expected_bytes
from darkroom.models.vocabulary import read_vocabulary
from darkroom.models.weights import fingerprint, locate, verify

log = logging.getLogger(__name__)

GIB = 2**30
EIGHT_BITS: Precision = "fp8_storage"
"""How a vision model is stored that a job wants in 8 bits."""


@dataclass(frozen=True)
class RoleState:
    """What `health` says of one model."""

    state: Literal["cold", "loading", "warm", "failed"]
    id: str
    revision: str | None
    precision: str
    load_seconds: float | None = None
    gib: float | None = None
    problem: str | None = None


@dataclass
class _Part:
    """A heavy part and the roles that use it; while it is `coming`, None and what it will take.

    followers: of a transformer that runs on several GPUs.
    """

    module: Any
    bytes: int
    roles: set[str]
    coming: Future[Any] | None = None
    followers: Followers | None = None

    def come(self, module: Any) -> None:
        """It is there."""
        self.module, self.bytes, self.coming = module, occupied_bytes(module), None


class Shelf:
    """Editors by role. `editor` runs on the torch thread only; `report` may be called from any.

    budget_bytes: what all parts together may occupy, None for no limit. When a new model does not fit, the
    least recently used ones go first; equal parts (by content) are loaded once and counted once.
    """

    def __init__(self, profile: Profile, budget_bytes: int | None = None) -> None:
        self.profile, self.budget_bytes = profile, budget_bytes
        self._parts: dict[tuple[Any, ...], _Part] = {}
        self._editors: OrderedDict[str, Editor] = OrderedDict()
        self._encodings = TensorCache(int(profile.cache_mib * MIB))
        device = torch.device(profile.device)
        self._residency = OneAtATime(device) if profile.offload else Resident(device)
        self.crew = Crew(profile) if profile.gpus > 1 else None
        self._perceptual: Perceptual | None = None
        self._optical_flow: OpticalFlow | None = None
        self._vision: tuple[tuple[bool, Precision, bool], VisionExtractor] | None = None
        self._rulers: Rulers | None = None
        self._lock = threading.Lock()
        self._states = {role: self._state_of(role, "cold") for role in profile.models}

    def spec(self, role: str) -> ModelSpec:
        """What the role stands for in this profile. Raises UnsupportedType where it has none."""
        if role not in self.profile.models:
            raise UnsupportedType(f"profile {self.profile.name} has no {role} model")
        return self.profile.models[role]

    def identity(self, role: str) -> dict[str, Any]:
        """The reply's `model`: id, revision, precision."""
        spec = self.spec(role)
        return {"id": public_id(spec), "revision": spec.revision, "precision": self.profile.precision}

    def is_warm(self, role: str) -> bool:
        """Whether the next job finds this model loaded."""
        return role in self._editors and self._editors[role].whole

    def editor(self, role: str, *, whole: bool = True) -> Editor:
        """The role's editor, loaded now if it is not warm. Raises ModelNotReady, or OutOfMemory from the device.

        whole: False hands out a packed model as soon as it can encode. Its transformer goes on loading and is waited
        for where it is first asked for; should it fail, that raises the same errors, and the model is cold again.
        """
        self.spec(role)
        if role not in self._editors:
            self._finish()
            self._editors[role] = self._tracked_load(role)
        self._editors.move_to_end(role)
        editor = self._editors[role]
        return editor.finish() if whole or editor.came(0.0) else editor

    def perceptual(self) -> Perceptual:
        """What pictures look alike by; loaded for the first job that measures, and kept."""
        if self._perceptual is None:
            self._perceptual = load_perceptual(torch.device(self.profile.device))
        return self._perceptual

    def optical_flow(self) -> OpticalFlow:
        """How a picture moved; loaded for the first job that asks, and kept."""
        if self._optical_flow is None:
            self._optical_flow = load_optical_flow(torch.device(self.profile.device))
        return self._optical_flow

    def vision(self, *, language: bool = False, eight_bit: bool = False, visiting: bool = False) -> VisionExtractor:
        """The vision model, loaded now if it is not warm in this form. Raises as `editor` does.

        language: with the language model behind the tower, to read prompts. eight_bit: stored in 8 bits, whatever the
        profile says. visiting: on the device only while it looks, as all parts are where the profile offloads.
        """
        form: tuple[bool, Precision, bool] = (language, EIGHT_BITS if eight_bit else self.profile.precision, visiting)
        kept = self._vision
        if kept is None or kept[0][1:] != form[1:] or language > kept[0][0]:
            self.evict("vision")
            self._finish()
            started = time.perf_counter()
            self._set(self._state_of("vision", "loading"), "vision")
            with self._failing("vision"):
                kept = self._vision = (form, self._load_vision(*form))
            self._ready("vision", "warm", time.perf_counter() - started)
        return kept[1]

    def describe(self, pictures: Sequence[Image]) -> list[str]:
        """Captions by the vision model with its language head, which is there for this alone. Raises as `editor`."""
        folder, device = locate(self.spec("vision"), ()), torch.device(self.profile.device)
        verify(folder)
        self.evict("vision")
        self._finish()
        self._make_room("vision", [described_bytes(folder, self.profile.precision)])
        return describe_all(folder, device, self.profile.precision, pictures)

    def rulers(self) -> Rulers:
        """What a sweep's pictures are judged by; loaded for the first job that judges, and kept."""
        if self._rulers is None:
            self._rulers = load_rulers(self.profile.rulers, torch.device(self.profile.device))
        return self._rulers

    def evict(self, role: str) -> None:
        """Let a model go, with the parts that no other uses; a cold role stays cold."""
        if role == "vision":
            was_here, self._vision = self._vision is not None, None
        else:
            was_here = self._editors.pop(role, None) is not None
        if was_here:
            self._let_go(role)
            self._set(self._state_of(role, "cold"), role)

    def report(self) -> dict[str, Any]:
        """State of every role and memory of all parts together, as JSON values."""
        with self._lock:
            states = dict(self._states)
        for role, editor in list(self._editors.items()):
            states[role] = replace(states[role], problem=states[role].problem or editor.problem)
        return {
            "profile": self.profile.name,
            "models": {role: {k: v for k, v in vars(state).items() if v is not None} for role, state in states.items()},
            "parts_gib": round(self._occupied() / GIB, 4),
            "budget_gib": None if self.budget_bytes is None else round(self.budget_bytes / GIB, 4),
            "encodings": self._encodings.report(),
        }

    # -- loading --------------------------------------------------------------------------------

    def _tracked_load(self, role: str) -> Editor:
        started = time.perf_counter()
        self._set(self._state_of(role, "loading"), role)
        with self._failing(role):
            editor = self._load(role, started)
        self._ready(role, "warm" if editor.whole else "loading", time.perf_counter() - started)
        return editor

    @contextmanager
    def _failing(self, role: str) -> Iterator[None]:
        """What goes wrong inside the block ends the loading: the model is let go, and the error says what it was."""
        try:
            yield
        except DarkroomError as error:
            self._fail(role, error.message)
            raise
        except (OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
            if is_the_devices(error):
                self._fail(role, "the device failed while it loaded")
                raise
            what = "a vision model" if role == "vision" else "a Qwen-Image-Edit model"
            self._fail(role, f"its files do not make {what}")
            spec = self.spec(role)
            raise ModelNotReady(
                f"the {role} model {Path(spec.repo).name!r} could not be loaded: its files do not make {what}"
            ) from error
        except BaseException:
            self._fail(role, "its loading was broken off")
            raise

    def _ready(self, role: str, state: Literal["warm", "loading"], seconds: float) -> None:
        occupied = sum(part.bytes for part in self._parts.values() if role in part.roles)
        found = self._state_of(role, state)
        self._set(replace(found, load_seconds=round(seconds, 3), gib=round(occupied / GIB, 4)), role)

    def _finish(self) -> None:
        """Wait for what is still loading: modules are built under a patch of torch, which no other load may meet."""
        for role, editor in list(self._editors.items()):
            try:
                editor.finish()
            # The job that this one makes wait was of another model.
            except ModelNotReady as error:
                log.warning("the %s model is gone: %s", role, error.message)

    def _load(self, role: str, started: float) -> Editor:
        spec = self.spec(role)
        folder = locate(spec, editor_parts(spec))
        require(self.profile.precision, read_card() if self.profile.device == "cuda" else None)
        checkpoint = open_checkpoint(folder, self.profile)
        keys = {part: checkpoint.key(part) for part in PARTS}
        self._claim(role, keys.values())
        missing = [part for part, key in keys.items() if key not in self._parts]
        self._make_room(role, [checkpoint.device_bytes(part) for part in missing])
        return Editor(
            **self._modules(role, checkpoint, keys, folder, started),
            processor=load_processor(folder / spec.reader),
            schedule=load_schedule(folder / "scheduler"),
            areas=spec.areas,
            residency=self._residency,
            max_batch=self.profile.max_batch,
            levers=self.profile.levers,
            attention=self.profile.attention,
            cache_dir=self.profile.cache_dir or checkpoint.cache,
            made_ahead=checkpoint.cache,
            vocabulary=read_vocabulary(folder),
            encodings=Encodings(
                self._encodings,
                (keys["text_encoder"], keys["vae"], fingerprint(folder / spec.reader), spec.areas),
            ),
        )

    def _load_vision(self, language: bool, precision: Precision, visiting: bool) -> VisionExtractor:
        folder = locate(self.spec("vision"), ())
        verify(folder)
        require(precision, read_card() if self.profile.device == "cuda" else None)
        self._make_room("vision", [expected_bytes(folder, precision, language)])
        residency = Visiting(self._residency.device) if visiting else self._residency
        home = torch.device("cpu") if visiting else self._home("vision")
        identity = ("vision", fingerprint(folder), precision)
        extractor = VisionExtractor.load(
            folder, home, precision, language, residency=residency, cache=self._encodings, identity=identity
        )
        self._parts[(*identity, language)] = _Part(extractor.model, occupied_bytes(extractor.model), {"vision"})
        return extractor

    def _claim(self, role: str, keys: Iterable[tuple[Any, ...]]) -> None:
        """Mark what is loaded already as used, so that making room does not throw it out."""
        for key in keys:
            if key in self._parts:
                self._parts[key].roles.add(role)

    def _modules(
        self, role: str, checkpoint: Checkpoint, keys: Mapping[str, tuple[Any, ...]], folder: Path, started: float
    ) -> dict[str, Any]:
        """Every part: what is not here yet is loaded, the transformer late; what another role has loaded is shared."""
        missing = [part for part, key in keys.items() if key not in self._parts]
        for part in missing:
            self._parts[keys[part]] = _Part(None, checkpoint.device_bytes(part), {role})
        transformer = self._parts[keys["transformer"]]
        if self.crew is not None and "transformer" in missing:
            # The other GPUs load while this one does.
            transformer.followers = self.crew.load(folder)
        coming = checkpoint.load({part: self._home(part) for part in missing})
        for part in missing:
            self._parts[keys[part]].coming = coming[part]
        for part in missing:
            if part != "transformer":
                self._parts[keys[part]].come(coming[part].result())
        modules = {part: self._parts[key].module for part, key in keys.items()}
        if "transformer" in missing:
            modules["transformer"] = Late(coming["transformer"], partial(self._came, role, transformer, started))
        return modules

    def _came(self, role: str, part: _Part, started: float, late: Late, take: Take) -> None:
        """The transformer's turn: wait for it, and make the model whole."""
        with self._failing(role):
            module, came_at = late.part()
            part.come(module)
            if part.followers is not None:
                part.followers.lead(module)
            take(module)
        self._ready(role, "warm", max(came_at - started, self._states[role].load_seconds or 0.0))

    def _home(self, part: str) -> torch.device:
        """Where a part waits. The VAE is small and needed at both ends of a job: it stays on the device everywhere."""
        return torch.device("cpu") if self.profile.offload and part != "vae" else self._residency.device

    def _make_room(self, role: str, sizes: Sequence[int]) -> None:
        if self.budget_bytes is None:
            return
        # Parts that visit the device one after the other need room for the largest alone.
        need = max(sizes, default=0) if self.profile.offload else sum(sizes)
        while self._occupied() + need > self.budget_bytes and (self._vision or self._editors):
            # The vision model goes first: what it has seen is kept.
            self.evict("vision" if self._vision else next(iter(self._editors)))
        # What is left is the model's own: parts that it has shared with others.
        whole = need if self.profile.offload else self._occupied() + need
        if whole > self.budget_bytes:
            raise ModelNotReady(
                f"the {role} model needs {whole / GIB:.2f} GiB and the memory budget is "
                f"{self.budget_bytes / GIB:.2f} GiB; choose a smaller profile or raise DARKROOM_MEMORY_BUDGET_GIB"
            )

    def _let_go(self, role: str) -> None:
        """Drop the parts that no other role uses."""
        for key in [key for key, part in self._parts.items() if role in part.roles]:
            part = self._parts[key]
            part.roles.discard(role)
            if part.roles:
                continue
            if part.coming is not None:
                # What still comes takes memory, all of which the next try needs.
                wait([part.coming])
            self._residency.leave(part.module)
            if part.followers is not None:
                part.followers.leave()
            del self._parts[key]
        gc.collect()
        if self.profile.device == "cuda":
            torch.cuda.empty_cache()

    # -- state ----------------------------------------------------------------------------------

    def _occupied(self) -> int:
        return sum(part.bytes for part in list(self._parts.values()))

    def _state_of(self, role: str, state: Literal["cold", "loading", "warm", "failed"]) -> RoleState:
        spec = self.profile.models[role]
        return RoleState(state, public_id(spec), spec.revision, self.profile.precision)

    def _fail(self, role: str, problem: str) -> None:
        self._editors.pop(role, None)
        self._let_go(role)
        self._set(replace(self._state_of(role, "failed"), problem=problem), role)

    def _set(self, state: RoleState, role: str) -> None:
        with self._lock:
            self._states[role] = state


def editor_parts(spec: ModelSpec) -> tuple[str, ...]:
    """The folders of a checkpoint that its editor is made of."""
    return (*PARTS, spec.reader, "scheduler")


def public_id(spec: ModelSpec) -> str:
    """A model's name as a caller may see it: a hub id whole, of a local folder no more than its last two names."""
    path = Path(spec.repo)
    return "/".join(path.parts[-2:]) if path.is_absolute() or path.is_dir() else spec.repo


def read_card() -> Card | None:
    """The first CUDA device, or None."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return Card(properties.total_memory / GIB, (properties.major, properties.minor), properties.name)


def default_budget(profile: Profile, card: Card | None, setting_gib: float | None) -> int | None:
    """The memory budget in bytes: as set, else the device's memory less the profile's reserve; None on the CPU."""
    if setting_gib is not None:
        return int(setting_gib * GIB)
    return None if card is None or profile.device == "cpu" else int((card.memory_gib - profile.reserve_gib) * GIB)
