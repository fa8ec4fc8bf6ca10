"""A video_edit from request to stored clip, in process."""

from __future__ import annotations

import json
from pathlib import Path

from tests.service.clips import edge_list, video_job
from tests.service.conftest import MakeService, stored

FILES = ["contact_sheet.png", "metrics.csv", "metrics.png", "side_by_side.mp4", "video.mp4"]


async def test_a_clip_has_the_designs_files_and_reply(make_service: MakeService, tmp_path: Path) -> None:
    reply = await make_service().handle(video_job(edges=edge_list(2)))
    assert "error" not in reply, reply
    print(json.dumps({k: v for k, v in reply.items() if k not in ("files", "video_url")}, indent=1)[:3000])
    names = [name.removeprefix("clip-1/") for name in stored(tmp_path)]
    assert names == sorted([*FILES, "manifest.json", "state.json", *(f"frames/frame_{i:04d}.png" for i in range(3))])
