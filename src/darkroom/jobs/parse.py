"""The door: raw JSON in, a job out, or an error that names the field and suggests the right one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from darkroom.errors import InvalidInput, UnsupportedType
from darkroom.jobs.base import JobInput
from darkroom.jobs.bridge_compare import BridgeCompare
from darkroom.jobs.bridge_evaluate import BridgeEvaluate
from darkroom.jobs.bridge_train import BridgeTrain
from darkroom.jobs.control import Health, Warmup
from darkroom.jobs.image_edit import ImageEdit
from darkroom.jobs.image_generate import ImageGenerate
from darkroom.jobs.injection_sweep import InjectionSweep
from darkroom.jobs.injection_train import InjectionTrain
from darkroom.jobs.limits import Limits
from darkroom.jobs.video_edit import VideoEdit

AnyJob = (
    ImageEdit
    | ImageGenerate
    | VideoEdit
    | InjectionSweep
    | InjectionTrain
    | BridgeCompare
    | BridgeEvaluate
    | BridgeTrain
    | Health
    | Warmup
)  # fmt: skip
Job = Annotated[AnyJob, Field(discriminator="type")]

_ADAPTER: TypeAdapter[AnyJob] = TypeAdapter(Job)
_MODELS: dict[str, type[JobInput]] = {
    get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(AnyJob)
}
_BRANCHES = ("str", "list[str]", "constrained-str", "list[constrained-str]")
_OPERATIONS = {"edit": "image_edit"}
"""`operation` of earlier clients -> `type`."""


def parse(raw: Any, limits: Limits) -> AnyJob:
    """The job that `raw`, the value of `input`, asks for.

    Raises InvalidInput, InputTooLarge or UnsupportedType; nothing has been fetched or stored by then.
    """
    if not isinstance(raw, Mapping):
        raise InvalidInput(f"input must be an object, got {_kind(raw)}", field="input")
    fields = _with_type(dict(raw))
    model = _MODELS[fields["type"]]
    fields = _with_aliases(fields, model)
    _refuse_unknown(fields, model)
    try:
        return _ADAPTER.validate_python(fields, context={"limits": limits})
    except ValidationError as error:
        raise _named(error.errors(include_url=False)) from None


def _with_type(fields: dict[str, Any]) -> dict[str, Any]:
    """Resolve `operation`, default to image_edit, refuse types that do not exist."""
    operation = fields.pop("operation", None)
    if operation is not None:
        if "type" in fields:
            raise InvalidInput("give either type or its older name operation, not both", field="operation")
        fields["type"] = _OPERATIONS.get(operation, operation) if isinstance(operation, str) else operation
    kind = fields.setdefault("type", "image_edit")
    if not isinstance(kind, str):
        raise InvalidInput(f"type must be a string, got {_kind(kind)}", field="type")
    if kind not in _MODELS:
        raise UnsupportedType(
            f"there is no job type {_short(kind)}{_suggest(kind, _MODELS)}",
            field="type",
            details={"known": sorted(_MODELS)},
        )
    return fields


def _with_aliases(fields: dict[str, Any], model: type[JobInput]) -> dict[str, Any]:
    """Older spellings become today's fields; both at once is refused."""
    for alias, name in model.aliases.items():
        if alias not in fields:
            continue
        if name in fields:
            raise InvalidInput(f"give either {name} or its older name {alias}, not both", field=alias)
        value = fields.pop(alias)
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise InvalidInput(f"{alias} must be base64 text or a list of it, got {_kind(value)}", field=alias)
        fields[name] = [v if v.startswith("data:") else f"data:image/*;base64,{v}" for v in values]
    return fields


def _refuse_unknown(fields: Mapping[str, Any], model: type[JobInput]) -> None:
    """Unknown fields are named before anything else is judged, with the spelling that was probably meant."""
    for name in fields:
        if name in model.useless:
            raise InvalidInput(f"{name}: {model.useless[name]}", field=name)
        if name not in model.model_fields:
            known = [*model.model_fields, *model.aliases]
            raise InvalidInput(
                f"{_short(name)} is not a field of {fields['type']}{_suggest(name, known)}",
                field=str(name)[:100] or "input",
            )


def _named(errors: list[ErrorDetails]) -> InvalidInput:
    """The first fault as the message; all of them in the details."""
    named = [{"field": _field(error), "message": _message(error)} for error in errors]
    # Of the branches of a union the one that got further knows more: prompt[0] is no text, not prompt.
    faults = [a for a in named if not any(b["field"].startswith(a["field"] + "[") for b in named)]
    first = faults[0]
    details = {"faults": faults[:20]} if len(faults) > 1 else {}
    return InvalidInput(f"{first['field']}: {first['message']}", field=first["field"], details=details)


def _field(error: ErrorDetails) -> str:
    """('image_edit', 'loras', 0, 'path') -> 'loras[0].path'; union branches such as 'list[str]' are left out."""
    name = ""
    for part in error["loc"]:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part not in _MODELS and part not in _BRANCHES:
            name += f".{part}" if name else part
    return name or "input"


def _message(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "this field is required"
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    value = error.get("input")
    shown = f", got {_short(value)}" if isinstance(value, str | int | float | bool) else ""
    return message if error["type"] == "value_error" else message + shown


def _suggest(name: Any, known: Any) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _kind(value: Any) -> str:
    names = {"NoneType": "null", "dict": "an object", "list": "a list", "str": "a string", "bool": "a boolean"}
    return names.get(type(value).__name__, "a number" if isinstance(value, int | float) else type(value).__name__)
