"""What is shipped fits together: the image, the RunPod files, the pins and the list of dependencies."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from darkroom.jobs import Limits, parse
from darkroom.settings import Settings
from tests.test_rooms import uses

ROOT = Path(__file__).parents[1]
PINS = ["requirements.txt", "requirements-dev.txt"]
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|ACCESS_KEY|API_KEY", re.IGNORECASE)
CUDA_MAJOR = 13


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, arguments) in order; continued lines joined, comments dropped."""
    text = (ROOT / "Dockerfile").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines.splitlines()) if name]


def copied_from_the_repository() -> list[str]:
    copies = [rest.split() for name, rest in dockerfile() if name == "COPY" and "--from=" not in rest]
    return [source for words in copies for source in words[:-1]]


def reaches_the_build(path: str) -> bool:
    """Docker's reading of .dockerignore: the last pattern that matches the path or a folder above it decides."""
    kept = True
    above = ["/".join(path.split("/")[: n + 1]) for n in range(path.count("/") + 1)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").rstrip("/").removeprefix("**/")
        anywhere = "**/" in line
        names = [part.rsplit("/", 1)[-1] for part in above] if anywhere else above
        if any(fnmatch(name, pattern) and ("/" in pattern or anywhere or "/" not in name) for name in names):
            kept = line.startswith("!")
    return kept


def pinned(name: str) -> list[Requirement]:
    return [Requirement(line) for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]


def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def runpod_json(name: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / ".runpod" / name).read_text()))


# -- the image ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", copied_from_the_repository())
def test_every_copied_file_exists_and_reaches_the_build(source: str) -> None:
    assert (ROOT / source).exists()
    assert reaches_the_build(source.rstrip("/"))


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        ".env",
        "src/.env.local",
        "results/job/image_0000.png",
        "training/run.pt",
        "tests/test_packaging.py",
        "src/darkroom/__pycache__/settings.cpython-312.pyc",
        "README.md",
    ],
)
def test_nothing_else_reaches_the_build(path: str) -> None:
    assert not reaches_the_build(path)


@pytest.mark.parametrize("path", ["src/darkroom/settings.py", "src/darkroom/pocket/weights/edit/model_index.json"])
def test_what_the_worker_reads_reaches_the_build(path: str) -> None:
    assert reaches_the_build(path)


def test_the_base_image_is_an_argument() -> None:
    assert dockerfile()[0][0] == "ARG"
    assert all(rest.startswith("${BASE_IMAGE}") for name, rest in dockerfile() if name == "FROM")


def test_the_image_holds_no_secret() -> None:
    assert not [rest for name, rest in dockerfile() if name in {"ENV", "ARG"} and SECRET.search(rest)]


def test_layers_that_change_often_come_last() -> None:
    text = (ROOT / "Dockerfile").read_text()
    order = ["apt-get install", "cuda.txt /tmp", "rest.txt /tmp", "COPY src/"]
    assert sorted(order, key=text.index) == order


def test_torch_and_cuda_have_the_big_layer_to_themselves() -> None:
    """The pattern that splits the pins still finds everything that torch brings."""
    patterns = set(re.findall(r"grep -v?E '([^']+)'", (ROOT / "Dockerfile").read_text()))
    assert len(patterns) == 1
    (pattern,) = patterns
    big = {pin.name for pin in pinned("requirements.txt") if re.search(pattern, f"{pin.name}=={pin.specifier}")}
    assert {"torch", "torchvision", "triton", "nvidia-cublas"} <= big
    assert all(name.startswith(("torch", "triton", "nvidia-", "cuda-")) for name in big)


def test_the_worker_starts_by_the_usual_command() -> None:
    assert dockerfile()[-1] == ("CMD", '["python", "-u", "handler.py"]')


@pytest.mark.parametrize("path", ["entrypoint.sh", ".ci/run"])
def test_scripts_are_executable_and_parse(path: str) -> None:
    assert os.access(ROOT / path, os.X_OK)
    shell = (ROOT / path).read_text().splitlines()[0].removeprefix("#!").split()[-1]
    assert subprocess.run([shell, "-n", ROOT / path], timeout=30).returncode == 0


def test_the_image_has_the_command_that_packs_weights(tmp_path: Path) -> None:
    [making] = [rest for name, rest in dockerfile() if name == "RUN" and "/usr/local/bin/darkroom" in rest]
    made = re.search(r"(printf '[^']+') > /usr/local/bin/darkroom && chmod 755", re.sub(r"\s+", " ", making))
    assert made
    script = tmp_path / "darkroom"
    script.write_bytes(subprocess.run(["sh", "-c", made[1]], capture_output=True, timeout=30, check=True).stdout)
    script.chmod(0o755)
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src")}
    told = subprocess.run([script, "pack", "--help"], capture_output=True, text=True, timeout=120, env=env)
    assert told.returncode == 0, told.stderr
    assert "--verify" in told.stdout


@pytest.fixture
def as_root(tmp_path: Path) -> dict[str, str]:
    """An environment in which the entrypoint believes itself root and only chown makes a folder the user's."""
    tools = {
        "id": "echo 0",
        "setpriv": 'while [ "${1#--}" != "$1" ]; do shift; done; export AS=darkroom; exec "$@"',
        "chown": '[ ! -e "$3/.locked" ] && touch "$3/.ours"',
        "test": '[ -e "$2/.ours" ]',
        "worker": 'echo "${AS:-root}"',
    }
    (tmp_path / "bin").mkdir()
    for name, does in tools.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "HF_HOME": str(tmp_path / "volume" / "hub")}


def started(env: dict[str, str]) -> tuple[str, str]:
    """Who the worker runs as, and what the entrypoint had to say."""
    ended = subprocess.run([ROOT / "entrypoint.sh", "worker"], capture_output=True, text=True, timeout=30, env=env)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip(), ended.stderr.strip()


def test_the_worker_gives_up_root_and_owns_the_folders_that_it_writes_to(
    as_root: dict[str, str], tmp_path: Path
) -> None:
    cache, store = tmp_path / "volume" / "cache", tmp_path / "volume" / "results"
    env = {**as_root, "DARKROOM_CACHE_DIR": str(cache), "DARKROOM_STORE": f"file://{store}"}
    assert started(env) == ("darkroom", "")
    assert all((folder / ".ours").is_file() for folder in (Path(as_root["HF_HOME"]), cache, store))


@pytest.mark.parametrize("store", ["", "./results", "s3://bucket/darkroom"])
def test_a_store_that_is_no_folder_of_a_volume_is_left_alone(
    as_root: dict[str, str], tmp_path: Path, store: str
) -> None:
    assert started({**as_root, "DARKROOM_STORE": store}) == ("darkroom", "")
    assert [path.name for path in (tmp_path / "volume").iterdir()] == ["hub"]


def locked(folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / ".locked").touch()
    return str(folder)


def test_where_only_root_may_write_to_the_model_cache_the_worker_stays_root(
    as_root: dict[str, str], tmp_path: Path
) -> None:
    locked(tmp_path / "volume" / "hub")
    who, said = started(as_root)
    assert who == "root"
    assert "HF_HOME" in said


def test_a_cache_that_cannot_be_handed_over_is_named_and_no_reason_to_stay_root(
    as_root: dict[str, str], tmp_path: Path
) -> None:
    cache = locked(tmp_path / "volume" / "cache")
    who, said = started({**as_root, "DARKROOM_CACHE_DIR": cache})
    assert who == "darkroom"
    assert cache in said


# -- RunPod's files -----------------------------------------------------------------------------------------------


def test_runpod_toml_has_what_both_command_lines_read() -> None:
    config = tomllib.loads((ROOT / "runpod.toml").read_text())
    assert config["name"] == config["project"]["name"] == project()["name"]
    assert {
        "uuid",
        "base_image",
        "gpu_types",
        "gpu_count",
        "volume_mount_path",
        "ports",
        "container_disk_size_gb",
    } < set(config["project"])
    # runpodctl casts every value to text and stops on anything else.
    assert all(isinstance(value, str) for value in config["project"]["env_vars"].values())
    assert not [name for name in config["project"]["env_vars"] if SECRET.search(name)]
    assert set(config["endpoint"]) == {"active_workers", "max_workers", "flashboot", "idle_timeout", "model_refs"}
    assert (ROOT / config["runtime"]["handler_path"]).name == "handler.py"
    assert (ROOT / config["runtime"]["requirements_path"]).exists()
    assert config["runtime"]["python_version"] in {"3.11", "3.12"}


def test_runpod_toml_asks_for_the_cuda_that_torch_is_built_for() -> None:
    image = tomllib.loads((ROOT / "runpod.toml").read_text())["project"]["base_image"]
    assert f"cuda{CUDA_MAJOR}" in image
    cuda = {pin.name: str(pin.specifier) for pin in pinned("requirements.txt")}["cuda-toolkit"]
    assert cuda.startswith(f"=={CUDA_MAJOR}.")


@pytest.mark.parametrize("config", [runpod_json("hub.json")["config"], runpod_json("tests.json")["config"]])
def test_the_hub_offers_only_drivers_that_can_run_torch(config: dict[str, Any]) -> None:
    assert config["allowedCudaVersions"]
    assert all(version.startswith(f"{CUDA_MAJOR}.") for version in config["allowedCudaVersions"])


def test_a_worker_on_an_older_driver_says_so_at_its_start() -> None:
    """By the SDK's own check, which reads the variable at import; without it torch would only see no card."""
    from runpod.serverless.modules import rp_system_fitness

    [env] = [rest for name, rest in dockerfile() if name == "ENV"]
    assert re.search(rf"\bRUNPOD_MIN_CUDA_VERSION={CUDA_MAJOR}\.0\b", env)
    assert '"RUNPOD_MIN_CUDA_VERSION"' in Path(rp_system_fitness.__file__).read_text("utf-8")


def test_the_hub_listing_is_complete() -> None:
    hub = runpod_json("hub.json")
    assert {"title", "description", "type", "category", "config"} <= set(hub)
    assert (hub["type"], hub["category"], hub["config"]["runsOn"]) == ("serverless", "image", "GPU")
    assert all(isinstance(hub["config"][name], int) for name in ("containerDiskInGb", "gpuCount"))


def test_who_deploys_from_the_hub_has_room_for_the_weights() -> None:
    """Neither a model cache nor a volume is sure there: 57.7 GB then come onto the container disk."""
    assert runpod_json("hub.json")["config"]["containerDiskInGb"] >= 58 + 30


def known_variables() -> set[str]:
    """Every environment variable that the settings listen to."""
    known = set()
    for name, field in Settings.model_fields.items():
        known.add(f"DARKROOM_{name.upper()}")
        choices = getattr(field.validation_alias, "choices", [])
        known.update(choice for choice in choices if isinstance(choice, str))
    return known


def test_the_hub_and_its_tests_set_variables_that_exist() -> None:
    hub, tests = runpod_json("hub.json")["config"], runpod_json("tests.json")["config"]
    named = {entry["key"] for entry in [*hub["env"], *tests["env"]]}
    named |= {key for preset in hub["presets"] for key in preset["defaults"]}
    assert named <= known_variables()


def test_the_hub_defaults_are_settings_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    env = runpod_json("hub.json")["config"]["env"]
    for preset in runpod_json("hub.json")["config"]["presets"]:
        for entry in env:
            monkeypatch.setenv(entry["key"], str(entry["input"]["default"]))
        for key, value in preset["defaults"].items():
            monkeypatch.setenv(key, value)
        assert Settings().profile == preset["defaults"]["DARKROOM_PROFILE"]


def test_no_secret_has_a_default_on_the_hub() -> None:
    for entry in runpod_json("hub.json")["config"]["env"]:
        assert not (SECRET.search(entry["key"]) and (entry.get("value") or entry["input"]["default"]))


@pytest.mark.parametrize("case", runpod_json("tests.json")["tests"], ids=lambda case: case["name"])
def test_the_hub_tests_are_jobs_that_the_worker_takes(case: dict[str, Any]) -> None:
    job = parse(case["input"], Limits())
    assert job.type == case["input"].get("type", "image_edit")
    assert case["timeout"] >= 10_000


# -- pins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PINS)
def test_every_requirement_is_pinned(name: str) -> None:
    for pin in pinned(name):
        assert [spec.operator for spec in pin.specifier] == ["=="], pin
        assert pin.url is None, pin


@pytest.mark.parametrize("name", [*PINS, "pyproject.toml", "Makefile", "Dockerfile", ".ci/run"])
def test_downloads_go_to_the_default_index(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"index-url|find-links|://|INDEX_URL", text)


@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize(("name", "extras"), [("requirements.txt", []), ("requirements-dev.txt", ["dev"])])
def test_the_pins_meet_the_direct_dependencies(name: str, extras: list[str], python: str) -> None:
    """One version each on either Python, inside the range that the code is written for."""
    machine = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    here = [pin for pin in pinned(name) if pin.marker is None or pin.marker.evaluate(machine)]
    versions = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in here}
    assert len(versions) == len(here)
    wanted = project()["dependencies"] + [line for e in extras for line in project()["optional-dependencies"][e]]
    for line in wanted:
        requirement = Requirement(line)
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), line


def test_development_has_the_versions_of_production() -> None:
    assert {str(pin) for pin in pinned("requirements.txt")} <= {str(pin) for pin in pinned("requirements-dev.txt")}


def test_what_the_code_imports_is_declared() -> None:
    """Not left to what another package happens to bring along."""
    wanted = project()["dependencies"] + project()["optional-dependencies"]["four-bit"]
    declared = {canonicalize_name(Requirement(line).name) for line in wanted}
    # Built into the declared package of the other name, or a dependency that its owner shows in its interface.
    shown = {"pydantic-core": "pydantic", "botocore": "boto3", "urllib3": "requests", "starlette": "fastapi"}
    shown |= {"tokenizers": "transformers", "huggingface-hub": "diffusers", "mypy-boto3-s3": "boto3"}
    homes = packages_distributions()
    for path in sorted((ROOT / "src").rglob("*.py")):
        names = {use.name.split(".")[0] for use in uses(ast.parse(path.read_text()), "") if use.kind == "import"}
        for name in sorted(names - sys.stdlib_module_names - {"darkroom", ""}):
            packages = {canonicalize_name(home) for home in homes.get(name, [name])}
            assert {shown.get(package, package) for package in packages} & declared, f"{path.name} imports {name}"


def test_the_promised_packages_are_there() -> None:
    promised = "runpod torch diffusers transformers accelerate pillow lpips boto3 pydantic".split()
    assert set(promised) <= {Requirement(line).name for line in project()["dependencies"]}
