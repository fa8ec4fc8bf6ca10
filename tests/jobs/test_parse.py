"""The door: every bad request is refused before anything runs, and the error names the field."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.errors import BadJob, InputTooLarge, InvalidInput, UnsupportedType
from darkroom.jobs import Health, ImageEdit, JobInput, Limits, S3Config, Warmup, parse, redacted

LIMITS = Limits(max_side=1024)
GOOD = {"images": ["https://example.com/a.png"], "prompt": "make it red"}


def fault(raw: Any) -> BadJob:
    with pytest.raises(BadJob) as caught:
        parse(raw, LIMITS)
    return caught.value


BAD = [
    ({"prompt": "x"}, "images", "required"),
    ({**GOOD, "images": []}, "images", "at least 1"),
    ({**GOOD, "images": ["a"] * 4}, "images", "at most 3"),
    ({**GOOD, "images": [1]}, "images[0]", "string"),
    ({**GOOD, "images": "a.png"}, "images", "list"),
    ({"images": ["a"]}, "prompt", "required"),
    ({**GOOD, "promt": "x"}, "promt", "did you mean prompt"),
    ({**GOOD, "num_inference_step": 4}, "num_inference_step", "did you mean num_inference_steps"),
    ({**GOOD, "zzz": 4}, "zzz", "not a field of image_edit"),
    ({**GOOD, "guidance_scale": 4.0}, "guidance_scale", "true_cfg_scale"),
    ({**GOOD, "size": "0*0"}, "size", "between 64 and 1024"),
    ({**GOOD, "size": "100000*64"}, "size", "between 64 and 1024"),
    ({**GOOD, "size": "100*100"}, "size", "multiple of 16"),
    ({**GOOD, "size": "big"}, "size", "WIDTH*HEIGHT"),
    ({**GOOD, "size": 512}, "size", "string"),
    ({**GOOD, "num_inference_steps": -1}, "num_inference_steps", "greater than or equal to 1"),
    ({**GOOD, "num_inference_steps": 201}, "num_inference_steps", "at most 200"),
    ({**GOOD, "num_inference_steps": True}, "num_inference_steps", "integer"),
    ({**GOOD, "num_inference_steps": "8"}, "num_inference_steps", "integer"),
    ({**GOOD, "num_inference_steps": 8.5}, "num_inference_steps", "integer"),
    ({**GOOD, "seed": "text"}, "seed", "integer"),
    ({**GOOD, "seed": -2}, "seed", "-1"),
    ({**GOOD, "seed": 2**63}, "seed", "less than or equal"),
    ({**GOOD, "true_cfg_scale": math.nan}, "true_cfg_scale", "finite"),
    ({**GOOD, "true_cfg_scale": math.inf}, "true_cfg_scale", "finite"),
    ({**GOOD, "true_cfg_scale": 0.5}, "true_cfg_scale", "greater than or equal to 1"),
    ({**GOOD, "prompt": ""}, "prompt", "empty"),
    ({**GOOD, "prompt": "  \n"}, "prompt", "empty"),
    ({**GOOD, "prompt": []}, "prompt", "at least one"),
    ({**GOOD, "prompt": ["", " "]}, "prompt[0]", "empty"),
    ({**GOOD, "prompt": ["x"] * 17}, "prompt", "limit is 16"),
    ({**GOOD, "prompt": "a \ud800 b"}, "prompt", "surrogate"),
    ({**GOOD, "negative_prompt": "\ud800"}, "negative_prompt", "surrogate"),
    (
        {"type": "injection_sweep", "photos": GOOD["images"], "negative_prompt": "\ud800"},
        "negative_prompt",
        "surrogate",
    ),
    ({**GOOD, "prompt": [3]}, "prompt[0]", "string"),
    ({**GOOD, "prompt": 3}, "prompt", "string"),
    ({**GOOD, "num_images": 9}, "num_images", "at most 8"),
    ({**GOOD, "num_images": 0}, "num_images", "greater than or equal to 1"),
    ({**GOOD, "preset": "best"}, "preset", "'fast', 'balanced' or 'quality'"),
    ({**GOOD, "output_format": "gif"}, "output_format", "'png', 'webp' or 'jpeg'"),
    ({**GOOD, "output_quality": 0}, "output_quality", "greater than or equal to 1"),
    ({**GOOD, "delivery": "mail"}, "delivery", "'auto', 's3' or 'base64'"),
    ({**GOOD, "expires_seconds": 1}, "expires_seconds", "greater than or equal to 60"),
    ({**GOOD, "idempotency_key": "a b"}, "idempotency_key", "pattern"),
    ({**GOOD, "idempotency_key": "a" * 129}, "idempotency_key", "pattern"),
    ({**GOOD, "idempotency_key": "../x"}, "idempotency_key", "pattern"),
    ({**GOOD, "loras": [{"path": "a/b/c.bin"}]}, "loras[0].path", "pickled"),
    ({**GOOD, "loras": [{"path": "https://example.com/x.ckpt?y=1"}]}, "loras[0].path", "pickled"),
    ({**GOOD, "loras": [{"path": "a/b/c.safetensors", "scale": "1"}]}, "loras[0].scale", "number"),
    ({**GOOD, "loras": [{"path": "a", "weight": 1}]}, "loras[0].weight", "not permitted"),
    ({**GOOD, "loras": [{"path": "a.safetensors"}] * 5}, "loras", "at most 4"),
    ({**GOOD, "image_base64": "abc"}, "image_base64", "older name"),
    ({**GOOD, "operation": "edit", "type": "image_edit"}, "operation", "older name"),
    ({"prompt": "x", "images_base64": [1]}, "images_base64", "base64"),
    ({"type": 3}, "type", "string"),
    ("text", "input", "object"),
    (None, "input", "object"),
    ([GOOD], "input", "object"),
]


@pytest.mark.parametrize(("raw", "field", "words"), BAD)
def test_a_bad_request_names_its_field_and_says_why(raw: Any, field: str, words: str) -> None:
    error = fault(raw)
    assert isinstance(error, InvalidInput)
    assert error.field == field
    assert words in error.message
    assert field.split("[")[0].split(".")[0] in error.message or field == "input"
    assert error.retryable is False


def test_a_long_prompt_is_too_large_and_not_repeated_in_the_error() -> None:
    error = fault({**GOOD, "prompt": "x" * 200_000})
    assert isinstance(error, InputTooLarge)
    assert error.field == "prompt"
    assert len(error.message) < 200


def test_an_unknown_type_is_unsupported_with_a_suggestion() -> None:
    error = fault({"type": "imageedit"})
    assert isinstance(error, UnsupportedType)
    assert "did you mean image_edit" in error.message
    assert "health" in error.details["known"]


def test_several_faults_are_all_in_the_details() -> None:
    error = fault({**GOOD, "seed": "x", "num_images": 0})
    assert {entry["field"] for entry in error.details["faults"]} == {"seed", "num_images"}


def test_image_edit_is_the_default_type_and_its_defaults_leave_the_preset_to_decide() -> None:
    job = parse(GOOD, LIMITS)
    assert isinstance(job, ImageEdit)
    assert (job.num_inference_steps, job.true_cfg_scale, job.seed, job.size) == (None, None, -1, "match_input")


def test_one_bad_prompt_stands_beside_the_good_ones() -> None:
    job = parse({**GOOD, "prompt": ["make it red", "", "x" * 9_000]}, LIMITS)
    assert isinstance(job, ImageEdit)
    assert {i: error.field for i, error in job.failed_prompts.items()} == {1: "prompt[1]", 2: "prompt[2]"}


@pytest.mark.parametrize(
    "old", [{"operation": "edit", "image_base64": "QUJD"}, {"images_base64": ["QUJD"]}, {"image_base64": ["QUJD"]}]
)
def test_earlier_clients_are_understood(old: dict[str, Any]) -> None:
    job = parse({"prompt": "x", **old}, LIMITS)
    assert isinstance(job, ImageEdit)
    assert job.images == ["data:image/*;base64,QUJD"]


def test_integers_are_numbers_where_a_float_is_meant() -> None:
    job = parse({**GOOD, "true_cfg_scale": 4}, LIMITS)
    assert isinstance(job, ImageEdit)
    assert job.true_cfg_scale == 4.0


def test_the_same_request_has_one_hash_and_the_key_is_no_part_of_it() -> None:
    plain = parse(GOOD, LIMITS).request_hash()
    assert parse({**GOOD, "idempotency_key": "k"}, LIMITS).request_hash() == plain
    assert parse({**GOOD, "seed": 1}, LIMITS).request_hash() != plain


def test_how_a_result_is_delivered_is_no_part_of_the_hash() -> None:
    plain = parse(GOOD, LIMITS).request_hash()
    assert parse({**GOOD, "delivery": "base64", "expires_seconds": 600}, LIMITS).request_hash() == plain


def test_a_field_that_a_later_release_adds_does_not_change_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(ImageEdit):
        sharpness: float = 1.0

    job = parse(GOOD, LIMITS)
    later = Later.model_validate(GOOD, context={"limits": LIMITS})
    assert later.request_hash() == job.request_hash()
    assert later.model_copy(update={"sharpness": 2.0}).request_hash() != job.request_hash()


def test_two_types_with_the_same_fields_have_two_hashes() -> None:
    assert parse({"type": "health"}, LIMITS).request_hash() != parse({"type": "warmup"}, LIMITS).request_hash()


def test_health_and_warmup_take_no_fields_of_others() -> None:
    assert isinstance(parse({"type": "health"}, LIMITS), Health)
    assert isinstance(parse({"type": "warmup", "models": ["edit"]}, LIMITS), Warmup)
    assert fault({"type": "health", "prompt": "x"}).field == "prompt"
    assert fault({"type": "warmup", "models": ["all"]}).field == "models[0]"


@given(
    st.dictionaries(st.text(max_size=20), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()))
)
def test_whatever_comes_in_ends_as_a_job_or_a_named_fault(raw: dict[str, Any]) -> None:
    try:
        outcome: object = parse(raw, LIMITS)
    except BadJob as error:
        outcome = error
    assert isinstance(outcome, JobInput) or (isinstance(outcome, BadJob) and outcome.field)
    assert len(str(outcome)) < 500 or isinstance(outcome, JobInput)


def test_what_is_written_down_holds_no_pictures_secrets_or_signatures() -> None:
    written = redacted(
        {
            "images": [
                "data:image/png;base64,SECRETPICTURE",
                "DATA:image/png;base64,SECRETPICTURE",
                "https://user:pw@host.example/a.png?X-Amz-Signature=abc#f",
                "HTTPS://host.example/b.png?X-Amz-Signature=abc",
            ],
            "s3Config": {"accessId": "AKIA", "accessSecret": "shh"},
            "nested": [{"api_key": "k"}],
        }
    )
    text = str(written)
    for secret in ("SECRETPICTURE", "user", "pw@", "abc", "AKIA", "shh", "'k'"):
        assert secret not in text
    assert "host.example/a.png" in text


def test_a_bucket_of_the_callers_own_is_checked_without_repeating_its_secret() -> None:
    good = {"accessId": "id", "accessSecret": "s3cr3t", "bucketName": "photos", "endpointUrl": "https://s3.example"}
    parsed = S3Config.parse(good)
    assert parsed is not None
    assert "s3cr3t" not in repr(parsed)
    with pytest.raises(InvalidInput, match=r"s3Config\.bucketName") as caught:
        S3Config.parse({**good, "bucketName": "No Good"})
    assert "s3cr3t" not in str(caught.value)
