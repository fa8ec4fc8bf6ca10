"""What several commands share: the endpoint's options, exit codes, and how errors are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from pydantic import ValidationError

from darkroom.client.address import RUNPOD_BASE, endpoint_url
from darkroom.client.errors import (
    BadReply,
    ClientError,
    EndpointUnreachable,
    JobFailed,
    RateLimited,
    RequestRefused,
    Unauthorized,
)
from darkroom.errors import BadJob, ModelNotReady

OK, SOME_FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130

EndpointOption = Annotated[
    str,
    typer.Option("--endpoint", "-e", envvar="DARKROOM_ENDPOINT", metavar="URL|ID",
                 help="An endpoint's address, or the id of one on RunPod.", rich_help_panel="Endpoint"),
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option("--api-key", envvar="DARKROOM_API_KEY", help="Key of an endpoint that is not RunPod's.",
                 rich_help_panel="Endpoint"),
]
RunpodKeyOption = Annotated[
    str | None,
    typer.Option("--runpod-api-key", envvar="RUNPOD_API_KEY", help="Sent to RunPod and to nobody else.",
                 rich_help_panel="Endpoint"),
]


def own_key(endpoint: str, api_key: str | None, runpod_api_key: str | None) -> str | None:
    """RunPod's key for RunPod's addresses, the other one for all others. Raises ValueError for no address."""
    at_runpod = endpoint_url(endpoint).startswith(f"{RUNPOD_BASE}/")
    return (runpod_api_key or api_key) if at_runpod else api_key


def fail(message: str, code: int) -> typer.Exit:
    """Tell the message on stderr; raise what this returns."""
    typer.secho(message, err=True, fg=typer.colors.RED)
    return typer.Exit(code)


@contextmanager
def told() -> Iterator[None]:
    """Errors that a person can act on become a sentence and an exit code; defects keep their traceback."""
    try:
        yield
    except KeyboardInterrupt:
        raise fail("interrupted", INTERRUPTED) from None
    except (EndpointUnreachable, Unauthorized, RateLimited, BadReply) as error:
        raise fail(f"{error}{_advice(error)}", UNREACHABLE) from None
    except JobFailed as error:
        again = "; the same request may succeed later" if error.retryable else ""
        raise fail(f"job {error.job_id} failed with {error.code}: {error.message}{again}", SOME_FAILED) from None
    except RequestRefused as error:
        raise fail(error.message, USAGE) from None
    except ClientError as error:
        raise fail(error.message, SOME_FAILED) from None
    except ModelNotReady as error:
        raise fail(error.message, SOME_FAILED) from None
    except ValidationError as error:
        raise fail(_first_fault(error), USAGE) from None
    except (BadJob, ValueError, OSError) as error:
        raise fail(str(error), USAGE) from None


def _first_fault(error: ValidationError) -> str:
    """'port: input should be less than …': never the values, which may be keys, nor pydantic's links."""
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{field}: {message[:1].lower()}{message[1:]}" if field else message


def _advice(error: ClientError) -> str:
    if isinstance(error, EndpointUnreachable):
        return "\nIs it running? `darkroom endpoint` starts one here; --endpoint or DARKROOM_ENDPOINT names another."
    return ""
