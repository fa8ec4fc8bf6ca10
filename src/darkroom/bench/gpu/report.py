"""gpu.json as tables. A cell without a measurement says why, or is a dash."""

from __future__ import annotations

from typing import Any

from darkroom.models import full_size
from darkroom.models.full_size import weights

RATES = {"bf16": "matrix rate", "fp8": "matrix rate, fp8"}
COLUMNS = (
    *("variant", "kind", "forward, s", "×", "TFLOP/s", "of matrix rate", "8 steps CFG, s", "×", "4 steps, s", "×"),
    *("weights, GiB", "peak, GiB", "SNR, dB"),
)


def markdown(content: dict[str, Any]) -> str:
    """The whole page."""
    gpu, machine, sections = content["gpu"], content["machine"], content["sections"]
    where = f"{gpu['name']}, {gpu['memory_gib']} GiB, CUDA {gpu['cuda']}" if gpu else f"{machine['cpu']} (no GPU)"
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    settings = ", ".join(f"{name} {value}" for name, value in content["settings"].items())
    lines = [
        f"# One GPU: {where}",
        "",
        f"{content['created_at']} · commit {content['commit'] or 'unknown'} · Python {machine['python']}, {packages}  ",
        f"{settings}  ",
        f"made by `python -m darkroom.bench.gpu` in {content.get('seconds', '–')} s",
        "",
        *_variants(sections),
        *_rates(sections),
        *_vae(sections.get("vae", {})),
        *_guided(sections.get("guided step", {})),
        *_attention(sections.get("attention", {})),
        *_cold(sections.get("cold start", {})),
        *_not_measured(sections),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _variants(sections: dict[str, Any]) -> list[str]:
    lines = [
        "| " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---:|" * (len(COLUMNS) - 2),
    ]
    for name, said in sections.items():
        if "forward" not in said:
            continue
        forward, ratio = said["forward"], said["ratio"] or {}
        cells = [
            name,
            said["kind"],
            f"{forward['median_seconds']:.4f} ± {forward['spread_seconds'] / 2:.4f}",
            _number(ratio.get("forward"), ".2f"),
            _number(said["tflop_per_second"], ".3g"),
            _number(said["share_of_matrix_rate"], ".0%"),
            f"{said['edit_8_cfg']['median_seconds']:.3f}",
            _number(ratio.get("edit_8_cfg"), ".2f"),
            f"{said['edit_4']['median_seconds']:.3f}",
            _number(ratio.get("edit_4"), ".2f"),
            _number(sum(said["weights_gib"].values()), ".3g"),
            _number(said["device_peak_gib"], ".1f"),
            _equality(said["equality"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _rates(sections: dict[str, Any]) -> list[str]:
    found = {name: sections.get(section, {}) for name, section in RATES.items()}
    told = [
        f"{name} {said['tflop_per_second']:.3g} TFLOP/s ({said['rows']}²)"
        for name, said in found.items()
        if "tflop_per_second" in said
    ]
    work = "TFLOP/s above count the work of diffusers' forward."
    return [f"Matrix products: {', '.join(told)}. {work}" if told else work, ""]


def _vae(said: dict[str, Any]) -> list[str]:
    if "conv2d" not in said:
        return []
    lines = [
        "| VAE | conv3d, s | conv2d, s | × | peak conv3d, GiB | peak conv2d, GiB | SNR, dB |",
        "|---|" + "---:|" * 6,
    ]
    for way in ("encode", "decode"):
        three, two = said["conv3d"][way], said["conv2d"][way]
        lines.append(
            f"| {way} | {three['median_seconds']:.4f} | {two['median_seconds']:.4f} | {said['ratio'][way]:.2f} | "
            f"{_number(three['device_peak_gib'], '.1f')} | {_number(two['device_peak_gib'], '.1f')} | "
            f"{_equality(said['equality'][way])} |"
        )
    return [*lines, ""]


def _guided(said: dict[str, Any]) -> list[str]:
    if "guided" not in said:
        return []
    told = [f"{name} {_seconds_and_peak(said[name])}" for name in ("guided", "plain")]
    return [f"A guided step (x0 → decode → gradient): {', '.join(told)}; SNR {_equality(said['equality'])} dB.", ""]


def _seconds_and_peak(side: dict[str, Any]) -> str:
    if "median_seconds" not in side:
        return str(side["reason"])
    peak = side["device_peak_gib"]
    return f"{side['median_seconds']:.3f} s" + ("" if peak is None else f" ({peak:.1f} GiB)")


def _attention(said: dict[str, Any]) -> list[str]:
    if "backends" not in said:
        return []
    lines = ["| attention backend | forward, s | SNR, dB |", "|---|---:|---:|"]
    for name, side in said["backends"].items():
        measured = side["status"] == "measured"
        seconds = f"{side['median_seconds']:.4f}" if measured else side["reason"]
        lines.append(f"| {name} | {seconds} | {_equality(side['equality']) if measured else '–'} |")
    return [*lines, ""]


def _cold(said: dict[str, Any]) -> list[str]:
    if "packed_fp8" not in said:
        return []
    lines = [
        f"Loading from a cold disk, {said['layers']} of {full_size.TRANSFORMER['num_layers']} layers:",
        "",
        "| | seconds | GB | GB/s |",
        "|---|---:|---:|---:|",
    ]
    for name in ("from_pretrained", "packed_fp8"):
        side = said[name]
        lines.append(f"| {name} | {side['seconds']:.2f} | {side['bytes'] / 1e9:.3g} | {side['gb_per_second']:.2f} |")
    cold = sum(part.device for part in weights("fp8").values()) / 1e9
    return [*lines, "", f"{said['ratio']:.2f} times as fast. By its shapes a whole FP8 artifact is {cold:.2f} GB.", ""]


def _not_measured(sections: dict[str, Any]) -> list[str]:
    missing = [f"- {name}: {said['status']}, {said['reason']}" for name, said in sections.items() if "reason" in said]
    return missing + [f"- {name}: {said['problem']}" for name, said in sections.items() if said.get("problem")]


def _equality(said: dict[str, Any] | None) -> str:
    if said is None:
        return "–"
    told = "equal" if said["snr_db"] is None else f"{said['snr_db']:.1f}"
    return told if said["within"] else f"{told} (below {said['bound_db']:.0f})"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
