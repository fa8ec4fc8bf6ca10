"""The client side of API v2: every refusal is JSON with a sentence, and every job can be found again."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from darkroom.local import EndpointConfig, start
from darkroom.local.guard import Guard
from tests.local.conftest import Api, config_of


@pytest.mark.parametrize("body", [b"", b"{", b"input=1", b"\xff", b'{"input": {"x": Infinity}}'])
@pytest.mark.parametrize("path", ["/run", "/runsync"])
def test_a_body_that_is_not_json_is_refused(nobody: Api, path: str, body: bytes) -> None:
    reply = nobody.http.post(path, content=body)
    assert (reply.status_code, reply.json()) == (400, {"error": "the body is not valid JSON"})


@pytest.mark.parametrize("path", ["/run", "/runsync"])
def test_a_body_without_input_is_refused(nobody: Api, path: str) -> None:
    reply = nobody.http.post(path, json={"prompt": "x"})
    assert reply.status_code == 400
    assert "'input' is missing" in reply.json()["error"]


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/status/x"), ("GET", "/stream/x"), ("POST", "/cancel/x"), ("POST", "/retry/x"), ("GET", "/nothing"),
    ("GET", "/../other/health"), ("GET", "/status/"),
])
def test_what_is_unknown_is_404(nobody: Api, method: str, path: str) -> None:
    reply = nobody.http.request(method, path)
    assert reply.status_code == 404
    assert reply.json()["error"].startswith("there is no")


def test_a_wrong_method_is_405_in_json(nobody: Api) -> None:
    reply = nobody.http.get("/run")
    assert reply.status_code == 405
    assert "error" in reply.json()


def test_a_request_over_the_limit_is_refused_and_one_below_it_is_not(nobody: Api) -> None:
    over = nobody.http.post("/run", json={"input": {"x": "x" * 100_001}})
    assert over.status_code == 413
    assert "exceeds" in over.json()["error"]
    fits = nobody.http.post("/runsync?wait=1000", json={"input": {"x": "x" * 150_000}})
    assert (fits.status_code, fits.json()["status"]) == (200, "IN_QUEUE")
    nobody.http.post("/purge-queue")


def test_waiting_jobs_can_be_seen_cancelled_and_purged(nobody: Api) -> None:
    nobody.http.post("/purge-queue")
    jobs = [nobody.run() for _ in range(3)]
    assert nobody.status(jobs[0]) == {"id": jobs[0], "status": "IN_QUEUE"}
    assert nobody.health()["jobs"]["inQueue"] == 3
    assert nobody.http.post(f"/cancel/{jobs[0]}").json() == {"id": jobs[0], "status": "CANCELLED"}
    assert nobody.http.post(f"/cancel/{jobs[0]}").json()["status"] == "CANCELLED"
    refused = nobody.http.post(f"/retry/{jobs[0]}")
    assert (refused.status_code, "this one is CANCELLED" in refused.json()["error"]) == (400, True)
    assert nobody.http.post("/purge-queue").json() == {"removed": 2, "status": "completed"}
    assert nobody.status(jobs[1])["status"] == "CANCELLED"
    assert nobody.health()["jobs"]["inQueue"] == 0


def test_a_runsync_that_takes_too_long_answers_with_the_state(nobody: Api) -> None:
    reply = nobody.http.post("/runsync?wait=1000", json={"input": {}})
    assert reply.json()["status"] == "IN_QUEUE"
    assert nobody.status(reply.json()["id"])["status"] == "IN_QUEUE"
    assert nobody.http.post("/runsync?wait=999", json={"input": {}}).status_code == 400
    nobody.http.post("/purge-queue")


def test_too_many_waiting_jobs_are_refused_for_now(nobody: Api) -> None:
    nobody.http.post("/purge-queue")
    replies = [nobody.http.post("/run", json={"input": {}}) for _ in range(22)]
    assert [reply.status_code for reply in replies] == [200] * 21 + [429]
    assert replies[-1].headers["retry-after"] == "5"
    nobody.http.post("/purge-queue")


def test_unicode_survives_the_way_through(nobody: Api) -> None:
    reply = nobody.http.post("/run", content=json.dumps({"input": {"prompt": "\ud800 naïve ☃"}}).encode())
    assert reply.status_code == 200
    nobody.http.post("/purge-queue")


def test_other_sites_pages_may_not_send_jobs(nobody: Api) -> None:
    foreign = nobody.http.post("/run", json={"input": {}}, headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    rebound = nobody.http.post("/run", json={"input": {}}, headers={"Host": "evil.example"})
    assert rebound.status_code == 403
    own = nobody.http.post("/run", json={"input": {}}, headers={"Origin": nobody.address})
    assert own.status_code == 200
    nobody.http.post("/purge-queue")


@pytest.mark.parametrize("path", ["job-take/x", "job-take-batch/x", "job-stop/x", "ping/x"])
def test_the_worker_side_is_closed_to_others(nobody: Api, path: str) -> None:
    assert nobody.http.get(f"/{path}").status_code == 401
    assert nobody.http.get(f"/{path}?token=wrong").status_code == 401
    assert nobody.http.post("/job-done/x/y", content=b"{}").status_code == 401


def test_results_are_served_with_their_type_and_run_nothing(nobody: Api) -> None:
    (nobody.folder / "store" / "job").mkdir(exist_ok=True)
    (nobody.folder / "store" / "job" / "image_0000.png").write_bytes(b"\x89PNG")
    (nobody.folder / "store" / "job" / "report.html").write_text("<script>1</script>")
    (nobody.folder / "store" / ".spool").mkdir(exist_ok=True)
    (nobody.folder / "store" / ".spool" / "x").write_text("secret")
    get = httpx.Client(base_url=f"{nobody.address}/files", trust_env=False)
    with get:
        picture = get.get("/job/image_0000.png")
        assert (picture.content, picture.headers["content-type"]) == (b"\x89PNG", "image/png")
        report = get.get("/job/report.html")
        assert "sandbox" in report.headers["content-security-policy"]
        assert report.headers["x-content-type-options"] == "nosniff"
        for path in ("/.spool/x", "/%2espool/x", "/job/..%2f.spool/x", "/%2e%2e/data/queue.sqlite", "/job", "/"):
            assert get.get(path).status_code == 404, path


def test_the_page_is_there_and_asks_for_nothing_elsewhere(nobody: Api) -> None:
    reply = httpx.get(nobody.address, trust_env=False)
    assert reply.headers["content-type"].startswith("text/html")
    assert "{{" not in reply.text
    for outside in ("src=\"http", "href=\"http", "@import", "url(http"):
        assert outside not in reply.text


def test_a_key_is_asked_for_everywhere_but_in_links_to_results(tmp_path: Path) -> None:
    endpoint = start(config_of("moody", tmp_path, workers_max=0, api_key="right"))
    try:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"}, {"Authorization": "é"}):
            with httpx.Client(base_url=f"{endpoint.address}/v2/local", headers=encoded(header),
                              trust_env=False) as client:
                for method, path in (("POST", "/run"), ("GET", "/health"), ("GET", "/status/x"), ("POST", "/cancel/x")):
                    reply = client.request(method, path, json={"input": {}})
                    assert reply.status_code == 401
                    assert "API key" in reply.json()["error"]
        for header in ("Bearer right", "right"):
            reply = httpx.get(f"{endpoint.address}/v2/local/health", headers={"Authorization": header},
                              trust_env=False)
            assert reply.status_code == 200
        (tmp_path / "store" / "a.txt").write_text("a")
        assert httpx.get(f"{endpoint.address}/files/a.txt", trust_env=False).status_code == 404
        segment = Guard(EndpointConfig(command=("x",), api_key="right")).files_segment
        assert httpx.get(f"{endpoint.address}/files/{segment}/a.txt", trust_env=False).text == "a"
    finally:
        endpoint.stop()


def encoded(headers: dict[str, str]) -> dict[str, bytes]:
    return {name: value.encode() for name, value in headers.items()}
