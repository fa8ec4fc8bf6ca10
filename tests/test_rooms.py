"""The import rules of the house, read from the source without importing it.

The four tables below are the rules. A room is a file or folder of `src/darkroom`, or `handler` itself. An import
inside a function counts like one at the top, and so does a dotted name in a string ("darkroom.workers.image_edit"),
which is how the table of job types names recipes that it loads late.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

# Room -> the rooms it may import. Its own room and `errors` are open to all; a dotted entry opens one module of a
# room; rooms that are not listed may import none.
ARROWS = {
    "handler": "edge service settings",
    "edge": "service progress settings",  # what the SDK needs of the service and the other way round
    # The only room where rooms meet; models.specs for the limits that belong to a profile.
    "service": "jobs workers models.shelf models.specs artifacts storage fetch timing settings "
    "ticket runner progress delivery spool sources stream claims scratch",
    # The service's own parts, each of them testable alone.
    "ticket": "jobs storage delivery timing",
    "runner": "workers.recipe artifacts faults",
    "faults": "",  # told apart by two rooms: where models load, and where jobs run
    "delivery": "artifacts storage",
    "claims": "storage",
    "scratch": "",
    "spool": "artifacts",
    "sources": "fetch jobs settings storage",
    "stream": "artifacts storage workers.recipe",
    "progress": "",
    # The procedural world draws cases whose right result is known, and its rules judge them from pixels.
    "workers": "jobs models technique media artifacts timing pocket.world pocket.judging.rules",
    "models": "settings technique faults",
    "fetch": "jobs",  # for Limits, as media: sizes are checked before anything is decoded
    "media": "jobs",
    "storage": "artifacts settings",
    "local": "jobs settings timing",
    "client": "jobs settings timing",
    # It reads back and judges what it has trained, by the same engine that serves it.
    "pocket": "models technique media settings",
    # It compares whole things from outside: endpoints, and the engine with diffusers.
    "bench": "jobs settings timing client local models technique media pocket",
    # Every command loads its own room late: `darkroom --help` and the client's commands need no torch.
    "cli": "jobs settings timing artifacts client",
}
LATE_ARROWS = {
    "cli": "local bench pocket models storage media service technique workers.evaluation",
}

TORCH = {"torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "lpips"}
# No room in here may load torch: they start in a fraction of a second on a laptop that has none.
WITHOUT_TORCH = {"errors", "settings", "jobs", "artifacts", "timing", "storage", "local", "client"}

# Room -> libraries it may never import, and why.
NEVER: dict[str, tuple[set[str], str]] = {
    "technique": (
        {"diffusers", "PIL", "pydantic", "runpod", "lpips", "logging", "os"},
        "technique takes tensors and gives tensors; LPIPS and models arrive as callables",
    ),
    **dict.fromkeys(WITHOUT_TORCH, (TORCH, "this room starts without torch")),
}

# Library or attribute -> the only modules that may use it, and why. "late:" allows imports inside functions only.
ONLY: dict[str, tuple[set[str], str]] = {
    "boto3": ({"storage"}, "one room talks to S3"),
    "botocore": ({"storage"}, "one room talks to S3"),
    "runpod": ({"handler", "edge", "late:client"}, "the SDK stays at the edges; the client starts without it"),
    "runpod.serverless.utils.rp_ssrf": ({"handler", "edge", "fetch"}, "fetch keeps to the SDK's guarded sockets"),
    "lpips": ({"models"}, "the perceptual models are weights"),
    # The pocket room builds, trains and judges a family of its own; it reads back what it has written.
    ".from_pretrained": ({"models", "pocket"}, "one room loads weights"),
    "os.environ": ({"settings", "local.leash"}, "settings are read once; local.leash hands a worker its environment"),
    "os.getenv": ({"settings"}, "settings are read once"),
    "os.putenv": ({"settings"}, "settings are read once"),
}

DEVICES = re.compile(r"(cuda|cpu|mps)(:\d+)?")
HANDLER_LINES = 40


@dataclass(frozen=True)
class Use:
    """A dotted name that a module imports or touches; `late` inside a function."""

    name: str
    line: int
    late: bool
    kind: str  # "import", "attribute" or "text"


def parts_of(module: str) -> tuple[str, str]:
    """'darkroom.models.shelf' -> ('models', 'models.shelf'); the file cli_batch is a part of the room cli."""
    inside = module.removeprefix("darkroom").lstrip(".") or "darkroom"
    file = inside.split(".")[0]
    return file.partition("_")[0] or file, inside


def uses(tree: ast.AST, package: str, late: bool = False) -> Iterator[Use]:
    """Everything that `tree` imports, every dotted attribute and every text that names one of our modules."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Use(alias.name, node.lineno, late, "import") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, package)
            yield from (Use(f"{base}.{alias.name}", node.lineno, late, "import") for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield Use(dotted(node), node.lineno, late, "attribute")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"darkroom(\.\w+)+(:\w+)?", node.value):
                yield Use(node.value.split(":")[0], node.lineno, True, "import")
            yield Use(node.value, node.lineno, late, "text")
        inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from uses(node, package, inside)


def absolute(node: ast.ImportFrom, package: str) -> str:
    """The full name behind `from . import x`, seen from `package`."""
    if not node.level:
        return node.module or ""
    above = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def dotted(node: ast.expr) -> str:
    """'os.environ' for the attribute, '.from_pretrained' where it hangs on something that is no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def matches(name: str, rule: str) -> bool:
    """Whether `rule` speaks of `name`: the same, something inside it, or an attribute of that name anywhere."""
    return name == rule or name.startswith(rule + ".") or (rule.startswith(".") and name.endswith(rule))


def faults(module: str, source: str, package: str | None = None) -> list[str]:
    """Every rule that `source`, as `module`, breaks: one sentence each, with its line."""
    room, inside = parts_of(module)
    package = package or module.rpartition(".")[0]
    found = []
    for use in uses(ast.parse(source), package):
        for check in (arrow_fault, never_fault, only_fault, recipe_fault, device_fault):
            if reason := check(room, inside, use):
                found.append(f"{module}:{use.line}: {reason}")
    return sorted(set(found))


def arrow_fault(room: str, _inside: str, use: Use) -> str | None:
    if use.kind != "import" or not matches(use.name, "darkroom"):
        return None
    target, module = parts_of(use.name)
    if target in {room, "errors", "darkroom", "__version__"}:
        return None
    allowed, late = ARROWS.get(room, "").split(), LATE_ARROWS.get(room, "").split()
    if any(matches(module, entry) for entry in allowed + late * use.late):
        return None
    if any(matches(module, entry) for entry in late):
        return f"{room} imports {module} at the top; it may only do so inside a function"
    return f"{room} may not import {module}; its arrows go to {', '.join(allowed) or 'no room'}"


def never_fault(room: str, _inside: str, use: Use) -> str | None:
    libraries, reason = NEVER.get(room, (set(), ""))
    if use.kind == "import" and use.name.split(".")[0] in libraries:
        return f"{room} may never import {use.name}: {reason}"
    return None


def only_fault(room: str, inside: str, use: Use) -> str | None:
    rules = [rule for rule in ONLY if matches(use.name, rule) and use.kind != "text"]
    if not rules:
        return None
    # The longest rule is the exact one: fetch may use rp_ssrf, though not the rest of the SDK.
    allowed, reason = ONLY[max(rules, key=len)]
    if {room, inside} & allowed or (use.late and f"late:{room}" in allowed):
        return None
    late = " late" if f"late:{room}" in allowed else ""
    return f"{max(rules, key=len)} belongs{late} to {', '.join(sorted(allowed))}: {reason}"


def recipe_fault(room: str, inside: str, use: Use) -> str | None:
    """Recipes stand alone; the room's own table names them, and only late."""
    target, module = parts_of(use.name)
    if room != "workers" or use.kind != "import" or target != "workers" or not use.name.startswith("darkroom."):
        return None
    file = ".".join(module.split(".")[:2])
    if file not in RECIPES or file == inside:
        return None
    if inside == "workers":
        return None if use.late else f"the table loads {file} at the top; recipes are imported late"
    return f"the recipe {inside} imports the recipe {file}; what they share belongs to technique or workers.recipe"


def device_fault(room: str, _inside: str, use: Use) -> str | None:
    if room != "technique":
        return None
    if use.kind == "text" and DEVICES.fullmatch(use.name):
        return f"technique names the device {use.name!r}; tensors bring their own"
    if use.kind != "text" and use.name.startswith(("torch.cuda", "torch.device.")):
        return "technique chooses a device; tensors bring their own"
    return None


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sorted(SOURCE.rglob("*.py"))
# Every file of workers is a recipe, but for the room's table and what all recipes share.
WORKERS = {f"workers.{path.stem}" for path in (SOURCE / "darkroom" / "workers").glob("*.py")}
RECIPES = WORKERS - {"workers.__init__", "workers.recipe"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_keep_to_the_rooms(path: Path) -> None:
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    assert not faults(module, path.read_text(encoding="utf-8"), package)


def test_the_handler_is_a_short_door() -> None:
    source = (ROOT / "handler.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < HANDLER_LINES
    assert not faults("handler", source)


def test_every_room_has_a_line_in_the_tables() -> None:
    """A new room must say what it may import, even if that is nothing."""
    rooms = {parts_of(module_name(path))[0] for path in SOURCES} - {"darkroom", "errors"}
    assert rooms <= set(ARROWS) | WITHOUT_TORCH | set(NEVER)


@pytest.mark.parametrize(
    ("module", "source", "rule"),
    [
        ("darkroom.technique.flow", "import darkroom.models.shelf", "technique may not import models.shelf"),
        ("darkroom.jobs.base", "from darkroom import settings", "jobs may not import settings"),
        ("darkroom.jobs.base", "from ..settings import Settings", "jobs may not import settings"),
        ("darkroom.service", "from darkroom.models.editor import Editor", "service may not import models.editor"),
        ("darkroom.client.sync", "def f():\n    from darkroom import service", "client may not import service"),
        ("darkroom.cli", "from darkroom.local import serve", "cli imports local.serve at the top"),
        ("darkroom.settings", "ROOM = 'darkroom.workers.image_edit:run'", "settings may not import workers.image_edit"),
        ("darkroom.technique.losses", "import lpips", "technique may never import lpips"),
        ("darkroom.technique.losses", "import logging", "technique may never import logging"),
        ("darkroom.technique.losses", "from PIL import Image", "technique may never import PIL.Image"),
        ("darkroom.technique.losses", "x.to('cuda:0')", "technique names the device"),
        ("darkroom.technique.losses", "torch.cuda.synchronize()", "technique chooses a device"),
        ("darkroom.client.sync", "def f():\n    import torch", "client may never import torch"),
        ("darkroom.storage", "from transformers import AutoModel", "storage may never import transformers"),
        ("darkroom.workers.image_edit", "import boto3", "boto3 belongs to storage"),
        ("darkroom.workers.image_edit", "from darkroom.storage import S3Store", "workers may not import storage"),
        ("darkroom.workers.image_edit", "import runpod", "runpod belongs to"),
        ("darkroom.workers.image_edit", "from darkroom.workers import control", "imports the recipe workers.control"),
        ("darkroom.workers.image_edit", "from . import control", "imports the recipe workers.control"),
        ("darkroom.workers", "from darkroom.workers import image_edit", "recipes are imported late"),
        ("darkroom.workers.image_edit", "AutoModel.from_pretrained('x')", "one room loads weights"),
        ("darkroom.service", "build().parts[0].from_pretrained('x')", "one room loads weights"),
        ("darkroom.fetch", "import runpod", "runpod belongs to"),
        ("darkroom.service", "def f():\n    import runpod", "runpod belongs to"),
        ("darkroom.client.sync", "import runpod", "runpod belongs late to"),
        ("darkroom.models.shelf", "import os\nos.environ['HF_HOME']", "settings are read once"),
        ("darkroom.models.shelf", "from os import environ", "settings are read once"),
        ("darkroom.models.shelf", "import os\nos.getenv('HF_HOME')", "settings are read once"),
        ("handler", "from darkroom.jobs import parse", "handler may not import jobs.parse"),
    ],
)
def test_a_planted_violation_is_caught(module: str, source: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "RECIPES", {"workers.image_edit", "workers.control"})
    assert any(rule in fault for fault in faults(module, source)), faults(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("darkroom.service", "from darkroom.models import shelf\nfrom darkroom.models.shelf import Shelf"),
        ("darkroom.edge", "import runpod\nfrom darkroom.service import Service"),
        ("darkroom.fetch", "from runpod.serverless.utils.rp_ssrf import guard\nfrom darkroom.jobs import Limits"),
        ("darkroom.client.sync", "def f():\n    import runpod"),
        ("darkroom.workers", "TABLE = {'image_edit': 'darkroom.workers.image_edit:run'}"),
        (
            "darkroom.workers.image_edit",
            "from darkroom.workers.recipe import Recipe\nfrom darkroom.models import Editor",
        ),
        ("darkroom.cli", "def f():\n    from darkroom import bench"),
        ("darkroom.technique.flow", "import torch\nfrom darkroom.errors import InvalidInput\nx.to(y.device)"),
        ("darkroom.pocket.family", "Model.from_pretrained(folder)"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert faults(module, source) == []
