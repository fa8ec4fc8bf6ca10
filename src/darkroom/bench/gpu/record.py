"""Results as they come: every section is on the disk before the next one starts."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer


class Record:
    """gpu.json in a folder, and the seconds that are left `until` (of time.monotonic).

    A section that no longer fits is skipped and says so; one that fails says how, and the next one runs.
    """

    def __init__(self, folder: Path, until: float, head: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "gpu.json"
        self._until = until
        self.content: dict[str, Any] = {**head, "sections": {}}
        self._write()

    @property
    def left(self) -> float:
        """Seconds of the budget that remain."""
        return self._until - time.monotonic()

    def section(self, name: str, needed: float, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run a section that is expected to take `needed` seconds, unless they are no longer there."""
        started = time.monotonic()
        if self.left < needed:
            said = {"status": "skipped", "reason": f"out of time: needs about {needed:.0f} s, has {self.left:.0f} s"}
            return self._keep(name, said)
        typer.echo(f"{name} …", err=True)
        try:
            said = {"status": "measured", **run()}
            _as_json(said)  # NaN is no measurement
        # Whatever a lever does on a card that it never saw, the figures of the others stay.
        except Exception as error:
            traceback.print_exc()
            said = {"status": "failed", "reason": f"{type(error).__name__}: {_first_line(error)}"}
        return self._keep(name, {**said, "section_seconds": round(time.monotonic() - started, 2)})

    def skip(self, name: str, reason: str) -> None:
        """Say why a section is not run at all."""
        self._keep(name, {"status": "skipped", "reason": reason})

    def finish(self, seconds: float) -> None:
        """All sections are through: how long everything took."""
        self.content["seconds"] = round(seconds, 1)
        self._write()

    def _keep(self, name: str, said: dict[str, Any]) -> dict[str, Any]:
        self.content["sections"][name] = said
        self._write()
        typer.echo(f"{name}: {said['status']}" + (f", {said['reason']}" if "reason" in said else ""), err=True)
        return said

    def _write(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(_as_json(self.content), "utf-8")
        os.replace(partial, self.path)


def _as_json(content: dict[str, Any]) -> str:
    """Raises ValueError for NaN and infinity."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
