"""One job from request to reply: parse, fetch, run, store, answer. The only room where rooms meet."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from darkroom import delivery, fetch, sources
from darkroom.artifacts import Artifact
from darkroom.claims import RENEW_SECONDS, Claim, Claims
from darkroom.errors import BadJob, Cancelled, DarkroomError, Internal, InvalidInput, TimedOut, UploadFailed
from darkroom.jobs import Limits, S3Config, parse, redacted
from darkroom.models.shelf import Shelf, default_budget, read_card
from darkroom.models.specs import resolve
from darkroom.progress import ProgressFeed, Send, post
from darkroom.runner import Runner
from darkroom.scratch import Scratch
from darkroom.settings import Settings
from darkroom.spool import Kept, Spool
from darkroom.storage import MissingKey, Store, bare_endpoint, open_store, store_of
from darkroom.stream import Stream
from darkroom.ticket import Ticket
from darkroom.timing import cost, usd_per_second
from darkroom.workers import Desk, Event, Progress, Recipe, Streamed, Unencoded, Work, recipe
from darkroom.workers.health import device, versions

T = TypeVar("T")
log = logging.getLogger(__name__)

PHASES = ("queue", "load", "fetch", "encode", "denoise", "decode", "upload")
RARE_PHASES = ("describe", "train", "judge")
"""Told where they happen."""
IO_THREADS = 8
LOOK_SECONDS = 1.0
"""Between two looks whether another worker has finished the job of a key."""


class Overtaken(Exception):
    """Another worker has taken this one for dead and makes the key's result."""


class Service:
    """The worker behind the handler. Made once per process; `handle` may run for several jobs at once.

    The torch thread takes one job at a time; of the others the sources are fetched and decoded, and the results
    encoded and stored, beside it.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        card = read_card()
        self.profile = resolve(settings, card)
        self.shelf = Shelf(self.profile, default_budget(self.profile, card, settings.memory_budget_gib))
        self.limits = limits_of(settings, self.profile.max_side)
        self.store = open_store(settings)
        self.active = 0
        self._runner = Runner(settings.job_seconds, settings.threads)
        self._spool = Spool(settings.spool, int(settings.spool_gib * 2**30))
        self._io = ThreadPoolExecutor(max_workers=IO_THREADS, thread_name_prefix="io")
        self._claims = Claims()
        self._keys: WeakValueDictionary[tuple[str, bool], asyncio.Lock] = WeakValueDictionary()
        self._jobs_run = 0

    async def preload(self) -> None:
        """Load the models of DARKROOM_PRELOAD. Raises ModelNotReady, or UnsupportedType for a role without a model."""
        for role in self.settings.preload:
            await self._runner.call(partial(self.shelf.editor, role))

    def check(self) -> None:
        """Fitness: the store takes a file and gives it back. Raises UploadFailed or FetchFailed."""
        self.store.check()

    async def handle(self, raw: Mapping[str, Any], send: Send | None = None) -> dict[str, Any]:
        """Answer one RunPod job: the reply, or the failure with its code. CancelledError passes through.

        raw: the job as RunPod hands it over (id, input, s3Config). send: where progress updates go, if anywhere.
        """
        job_id = str(raw.get("id") or f"local-{secrets.token_hex(8)}")
        self.active += 1
        try:
            return await self._answer(job_id, raw, send)
        except DarkroomError as error:
            # What the caller has to change needs no traceback; what this worker has to answer for does.
            cause = None if isinstance(error, BadJob) else error.__cause__
            log.warning("job %s: %s: %s", job_id, error.code, error.message, exc_info=cause)
            return error.reply()
        except Exception:  # the last door: what nobody foresaw must not reach a caller as a traceback
            log.exception("job %s: unforeseen", job_id)
            return Internal("something went wrong inside Darkroom; the worker's log has the details").reply()
        finally:
            self.active -= 1

    # -- from request to reply ------------------------------------------------------------------

    async def _answer(self, job_id: str, raw: Mapping[str, Any], send: Send | None) -> dict[str, Any]:
        job = parse(raw.get("input"), self.limits)
        request = redacted(job.model_dump(mode="json", exclude_unset=True))
        ticket = Ticket(job_id, job, await self._store_for(raw), request)
        delivery.check_wish(ticket.wish, ticket.store)
        run = recipe(job.type)
        if not run.exclusive:
            return await self._in_io(lambda: last_value(run.start(job, self._desk(ticket, {}))))
        if job.idempotency_key is None:
            return await self._work(ticket, run, send)
        # Who waits for a key in a caller's own bucket holds up none of the worker's store.
        lock = self._keys.setdefault((job.idempotency_key, ticket.store is self.store), asyncio.Lock())
        if lock.locked():
            await tell_waiting(send)
        async with lock:
            return await self._once(ticket, run, send, job.idempotency_key)

    async def _work(self, ticket: Ticket, run: Recipe, send: Send | None) -> dict[str, Any]:
        """Make the result, or take the one that an earlier try could not store; store it and build the reply."""
        kept = await self._in_io(lambda: self._spool.find(ticket.spool_name, ticket.request_hash))
        if kept is None:
            kept = await (self._stream(ticket, run, send) if run.streams else self._make(ticket, run, send))
        else:
            ticket.take_over(kept.making)
            ticket.warnings.append("made by an earlier try of this job, whose result could not be stored then")
        if not kept.artifacts and not kept.stored:
            return {**kept.fields, "warnings": ticket.warnings, "timings": self._timings(ticket)}
        return await self._in_io(lambda: self._store_and_reply(ticket, kept))

    async def _make(self, ticket: Ticket, run: Recipe, send: Send | None) -> Kept:
        """Fetch the sources and run the recipe. Nothing is stored yet: a failing job leaves nothing behind."""
        with ticket.clock.span("fetch"):
            files = await self._in_io(lambda: self._fetch(ticket, None))
        return await self._run(ticket, run, self._desk(ticket, files), ProgressFeed(send, self._interval), None)

    async def _stream(self, ticket: Ticket, run: Recipe, send: Send | None) -> Kept:
        """As `_make`, for a recipe whose files are stored as they come: what a failing job has stored stays."""
        feed = ProgressFeed(send, self._interval)
        stream = Stream(
            ticket.store,
            ticket.folder,
            ticket.request_hash,
            lambda entry: feed.keep({"file": delivery.announced(ticket.store, ticket.folder, entry, ticket.wish)}),
        )
        with Scratch(self._io) as scratch:
            try:
                with ticket.clock.span("fetch"):
                    desk = await scratch.work(lambda: self._streaming_desk(ticket, stream, scratch.folder))
                return await self._run(ticket, run, desk, feed, stream, scratch)
            except DarkroomError as error:
                await self._in_io(stream.close)
                error.details.update(stream.told())
                raise
            finally:
                # Also where the job was cancelled: what is finished is stored, and nothing is stored after that.
                # As work in the folder: the stream's thread keeps frames there, also after a second cancel.
                await asyncio.shield(scratch.work(stream.close))

    async def _run(
        self,
        ticket: Ticket,
        run: Recipe,
        desk: Desk,
        feed: ProgressFeed,
        stream: Stream | None,
        scratch: Scratch | None = None,
    ) -> Kept:
        artifacts, encoding, prepare = list[Artifact](), list[Future[Artifact]](), run.prepare
        over = threading.Event()

        def start() -> Work:
            ticket.clock.add("queue", time.perf_counter() - asked)
            return run.start(ticket.job, desk)

        def listen(event: Event) -> None:
            if isinstance(event, Streamed):
                assert stream is not None, "only a recipe that streams yields files to stream"
                stream.put(event)
            elif isinstance(event, Unencoded):
                encoding.append(self._io.submit(event.encode))
            elif isinstance(event, Artifact):
                artifacts.append(event)
            else:
                feed.update({"stage": event.stage, "done": event.done, "total": event.total, **event.more})

        def tell(progress: Progress) -> None:
            if over.is_set():
                raise Cancelled("the job was cancelled")
            listen(progress)

        desk.tell = tell
        try:
            if prepare is not None:
                in_io = self._in_io if scratch is None else scratch.work
                desk.prepared = await in_io(lambda: prepare(ticket.job, desk))
            asked = time.perf_counter()
            outcome = await self._runner.run(start, listen)
            stored = [] if stream is None else await self._in_io(stream.finish)
            artifacts += await asyncio.gather(*map(asyncio.wrap_future, encoding))
            await feed.close()
        finally:
            over.set()
            for waiting in encoding:
                waiting.cancel()  # of a job that has failed or was cancelled; the others are done
            await feed.abandon()
        ticket.gpu_seconds = outcome.seconds
        ticket.cold = desk.cold or self._jobs_run == 0
        self._jobs_run += 1
        ordered = sorted(artifacts, key=lambda artifact: artifact.name)
        return Kept(ordered, outcome.fields, ticket.making(), stored)

    def _store_and_reply(self, ticket: Ticket, kept: Kept) -> dict[str, Any]:
        """Files, manifest and idempotency record into the store, in this order. Keeps the result where that fails."""
        if not ticket.held():
            raise Overtaken
        try:
            with ticket.clock.span("upload"):
                delivery.store_files(ticket.store, ticket.folder, kept.artifacts)
            manifest = self._manifest(ticket, kept)
            delivery.store_manifest(ticket.store, ticket.folder, manifest)
            self._remember(ticket)
            ticket.recorded = True
        except UploadFailed as error:
            raise self._kept(ticket, kept, error) from error
        self._spool.drop(ticket.spool_name)
        return delivery.reply(ticket.store, manifest, ticket.wish, self._most_bytes)

    def _kept(self, ticket: Ticket, kept: Kept, error: UploadFailed) -> UploadFailed:
        """Put the result aside for the retry; the error says whether that worked."""
        try:
            self._spool.keep(ticket.spool_name, ticket.request_hash, kept)
        except OSError:
            log.exception("job %s: the result could not be kept either", ticket.job_id)
            return UploadFailed(f"{error.message}, nor could it be kept on this worker", details=error.details)
        return UploadFailed(
            f"{error.message}; the result is kept on this worker and goes out when the job is retried here",
            details=error.details,
        )

    # -- idempotency ----------------------------------------------------------------------------

    async def _once(self, ticket: Ticket, run: Recipe, send: Send | None, key: str) -> dict[str, Any]:
        """Answer from the store, or make the result as the only worker that does; the others wait for it here.

        Raises TimedOut when that takes longer than a job may run.
        """
        handed_out_again, told, latest = True, False, time.monotonic() + self.settings.job_seconds
        while (known := await self._in_io(lambda: self._known(ticket))) is None:
            try:
                async with self._holding(ticket, key, handed_out_again) as claim:
                    if claim is not None:
                        # Whoever held the key before may have finished since the look above.
                        known = None if claim.first else await self._in_io(lambda: self._known(ticket))
                        return await self._work(ticket, run, send) if known is None else known
            except Overtaken:
                log.warning("job %s: another worker has taken over its key and is waited for", ticket.job_id)
                handed_out_again, latest = False, time.monotonic() + self.settings.job_seconds
            if time.monotonic() > latest:
                raise TimedOut("another worker is still making the result of this idempotency_key; ask for it later")
            if not told:
                await tell_waiting(send)
                told = True
            await asyncio.sleep(LOOK_SECONDS)
        return known

    @asynccontextmanager
    async def _holding(self, ticket: Ticket, key: str, handed_out_again: bool) -> AsyncIterator[Claim | None]:
        """Claim the key, and renew that while the block runs; None while another worker holds it.

        Afterwards the key is answered from the store, or free. Raises Overtaken as soon as the claim is found lost.
        """
        claim = await self._claimed(ticket, key, handed_out_again)
        if claim is None:
            yield None
            return
        job, lost, reachable = asyncio.current_task(), False, True
        assert job is not None
        cancelled_before = job.cancelling()

        async def renew() -> None:
            nonlocal lost
            while not lost:
                await asyncio.sleep(RENEW_SECONDS)
                # Not on this service's own threads: they may all wait for downloads longer than a lease.
                lost = not await asyncio.to_thread(claim.renew)
            job.cancel()

        ticket.held, renewing = claim.held, asyncio.create_task(renew())
        try:
            yield claim
        except asyncio.CancelledError:
            if lost and job.uncancel() <= cancelled_before:  # by `renew` alone, as asyncio.timeout tells it
                raise Overtaken from None
            raise
        except UploadFailed:
            # A store that took no result takes no word about it either: the lease ends the claim.
            reachable = False
            raise
        finally:
            renewing.cancel()
            if reachable and not ticket.recorded:
                await asyncio.shield(asyncio.to_thread(claim.give_up))

    async def _claimed(self, ticket: Ticket, key: str, handed_out_again: bool) -> Claim | None:
        """As `Claims.take`. What comes after a cancellation is given up."""
        taking = self._io.submit(
            self._claims.take, ticket.store, key, ticket.job_id, ticket.request_hash, handed_out_again
        )
        try:
            return await asyncio.wrap_future(taking)
        except asyncio.CancelledError:
            self._io.submit(give_up_taken, taking)
            raise

    def _known(self, ticket: Ticket) -> dict[str, Any] | None:
        """The reply to an earlier job of this key, from its manifest. Raises InvalidInput for another request."""
        try:
            record = json.loads(ticket.store.get(f"idempotency/{ticket.job.idempotency_key}.json"))
        except MissingKey:
            return None
        if record["request_sha256"] != ticket.request_hash:
            raise InvalidInput(
                "idempotency_key was used before with another request; take a new key", field="idempotency_key"
            )
        manifest = delivery.load_manifest(ticket.store, record["folder"])
        if manifest is None or not delivery.whole(ticket.store, manifest):
            # An earlier try stopped half-way, or files are gone since: this one goes on where that one's files are.
            ticket.folder = record["folder"]
            return None
        return delivery.reply(ticket.store, manifest, ticket.wish, self._most_bytes)

    def _remember(self, ticket: Ticket) -> None:
        if ticket.job.idempotency_key is not None:
            record = {"request_sha256": ticket.request_hash, "folder": ticket.folder}
            name = f"idempotency/{ticket.job.idempotency_key}.json"
            ticket.store.put(name, json.dumps(record).encode(), "application/json")

    # -- pieces ---------------------------------------------------------------------------------

    async def _store_for(self, raw: Mapping[str, Any]) -> Store:
        """The job's own bucket where it brought one, else the worker's store."""
        own = S3Config.parse(raw.get("s3Config"))
        if own is None:
            return self.store
        address = own_endpoint(own)
        private = self.settings.allow_private_urls
        await self._in_io(lambda: fetch.check_public(address, "s3Config.endpointUrl", allow_private=private))
        return store_of(
            self.settings,
            endpoint_url=address,
            access_key=own.accessId.get_secret_value(),
            secret=own.accessSecret.get_secret_value(),
            bucket=own.bucketName,
        )

    def _fetch(self, ticket: Ticket, folder: Path | None) -> Mapping[str, bytes]:
        return sources.fetch_files(ticket.job, self.limits, self.settings, ticket.store, folder)

    def _streaming_desk(self, ticket: Ticket, stream: Stream, folder: Path) -> Desk:
        """A desk with a folder of its own, the sources in it, and what an earlier try has stored."""
        self._remember(ticket)
        desk = self._desk(ticket, self._fetch(ticket, folder))
        desk.clips = sources.fetch_clips(ticket.job, self.limits, self.settings, ticket.store, folder)
        desk.earlier, desk.read_stored, desk.folder = stream.earlier(), stream.read, folder
        return desk

    def _desk(self, ticket: Ticket, files: Mapping[str, bytes]) -> Desk:
        desk = Desk(self.shelf, self.limits, files, self.settings.lora_dir, ticket.clock, ticket.warnings)
        desk.preload = self.settings.preload
        return desk

    def _manifest(self, ticket: Ticket, kept: Kept) -> dict[str, Any]:
        gpu = self.settings.gpu_name or device()["name"]
        price = self.settings.gpu_usd_per_second or usd_per_second(gpu)
        return {
            "darkroom_manifest": 1,
            "job_id": ticket.job_id,
            "folder": ticket.folder,
            "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request": ticket.request,
            "request_sha256": ticket.request_hash,
            "reply": kept.fields,
            "files": [*kept.stored, *(artifact.entry() for artifact in kept.artifacts)],
            "warnings": ticket.warnings,
            "timings": self._timings(ticket),
            "cost": cost(gpu, ticket.gpu_seconds, price),
            "versions": versions(),
        }

    def _timings(self, ticket: Ticket) -> dict[str, Any]:
        rare = (name for name in RARE_PHASES if name in ticket.clock.seconds)
        return {"cold": ticket.cold, **ticket.clock.report(*PHASES, *rare)}

    @property
    def _interval(self) -> float:
        return self.settings.progress_seconds

    @property
    def _most_bytes(self) -> int:
        return int(self.settings.max_result_mb * 1e6)

    async def _in_io(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._io, function)


async def tell_waiting(send: Send | None) -> None:
    """Tell the caller why nothing is to be seen: once, since it stays until the next update."""
    if send is not None:
        await post(send, {"stage": "wait for the same idempotency_key", "done": 0, "total": 1})


def give_up_taken(taking: Future[Claim | None]) -> None:
    """Give up a claim for which its job has not waited."""
    with suppress(CancelledError, DarkroomError):
        if (claim := taking.result()) is not None:
            claim.give_up()


def last_value(work: Work) -> dict[str, Any]:
    """Run work that makes no files to its end."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return dict(end.value)


def own_endpoint(own: S3Config) -> str:
    """The address that boto3 will dial: without the bucket's name in front, however often it stands there.

    Judged and dialled must be the same host: the name behind the bucket's could be a private one.
    """
    address = own.endpointUrl
    while (bare := bare_endpoint(address, own.bucketName)) not in (None, address):
        address = str(bare)
    return address


def limits_of(settings: Settings, profile_max_side: int) -> Limits:
    """What a job may ask for on this worker."""
    same = (
        "max_steps",
        "max_prompts",
        "max_prompt_chars",
        "max_images_per_prompt",
        "max_loras",
        "max_cells",
        "max_frames",
        "fetch_seconds",
    )
    return Limits(
        **{name: getattr(settings, name) for name in same},
        max_side=settings.max_side or profile_max_side,
        max_source_bytes=int(settings.max_source_mib * 2**20),
        max_source_pixels=int(settings.max_source_megapixels * 1e6),
        max_clip_bytes=int(settings.max_clip_mib * 2**20),
        max_lora_bytes=int(settings.max_lora_mib * 2**20),
    )
