"""The queue: no job is lost, none ends twice, and all of it survives a kill."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from darkroom.local.job import FINAL, Job, NewJob, Outcome
from darkroom.local.queue import JobQueue

DONE = Outcome("COMPLETED", output='{"fine": true}')
BAD = Outcome("FAILED", error="INTERNAL: no")
TTL, EXECUTION, KEEP, ATTEMPTS = 100.0, 30.0, 50.0, 3


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock):
    queue = JobQueue(tmp_path / "queue.sqlite", max_attempts=ATTEMPTS, clock=clock)
    yield queue
    queue.close()


def new(id: str, **changes: object) -> NewJob:
    fields = {"input": "{}", "execution_timeout": EXECUTION, "ttl": TTL, "keep": KEEP, **changes}
    return NewJob(id=id, **fields)  # type: ignore[arg-type]


def ids(works: list) -> list[str]:
    return [work.job.id for work in works]


def test_jobs_are_handed_out_in_order_and_low_priority_last(queue: JobQueue) -> None:
    queue.submit(new("low", low_priority=True))
    queue.submit(new("first"))
    queue.submit(new("second"))
    assert ids(queue.take("w", 5)) == ["first", "second", "low"]


def test_a_worker_gets_the_input_as_it_was_sent(queue: JobQueue) -> None:
    text = json.dumps({"prompt": "naïve ☃", "n": [1, 2.5, None]})
    queue.submit(new("a", input=text, s3_config='{"accessId": "x"}'))
    [work] = queue.take("w")
    assert (work.input, work.s3_config, work.job.status) == (text, '{"accessId": "x"}', "IN_PROGRESS")


def test_an_id_is_taken_once(queue: JobQueue) -> None:
    queue.submit(new("a"))
    with pytest.raises(ValueError, match="there is a job a already"):
        queue.submit(new("a"))
    assert ids(queue.take("w", 9)) == ["a"]


def test_only_the_worker_that_holds_a_job_ends_it(queue: JobQueue) -> None:
    queue.submit(new("a"))
    queue.take("w")
    assert queue.finish("a", "other", DONE) is None
    assert queue.finish("a", "w", DONE)
    assert queue.finish("a", "w", BAD) is None
    assert queue.get("a").status == "COMPLETED"


def test_progress_shows_until_the_end_and_never_after(queue: JobQueue) -> None:
    queue.submit(new("a"))
    assert not queue.progress("a", "w", "1")
    queue.take("w")
    assert queue.progress("a", "w", "1")
    assert not queue.progress("a", "other", "2")
    assert queue.get("a").progress == "1"
    queue.finish("a", "w", DONE)
    assert not queue.progress("a", "w", "3")
    assert queue.get("a").output == DONE.output


def test_a_lost_job_goes_back_to_its_place_and_fails_after_so_many_deaths(queue: JobQueue) -> None:
    for id in ("a", "b"):
        queue.submit(new(id))
    for attempt in range(ATTEMPTS):
        assert ids(queue.take(f"w{attempt}")) == ["a"]
        [lost] = queue.lose(f"w{attempt}")
    assert (lost.status, lost.losses) == ("FAILED", ATTEMPTS - 1)
    assert "ended 3 times" in lost.error
    assert json.loads(lost.output) == {"code": "INTERNAL", "retryable": True, "details": {"workers_lost": 3}}
    assert ids(queue.take("w")) == ["b"]


def test_a_late_result_of_a_lost_worker_is_refused(queue: JobQueue) -> None:
    queue.submit(new("a"))
    queue.take("dead")
    queue.lose("dead")
    queue.take("alive")
    assert queue.finish("a", "dead", BAD) is None
    assert queue.finish("a", "alive", DONE).status == "COMPLETED"


def test_a_restart_of_the_endpoint_is_no_fault_of_the_jobs(tmp_path: Path) -> None:
    for _ in range(5):
        queue = JobQueue(tmp_path / "q", max_attempts=1)
        queue.recover()
        if queue.get("a") is None:
            queue.submit(new("a", ttl=1e6))
        assert ids(queue.take("w")) == ["a"]
        queue.close()


def test_ttl_counts_from_submission_and_execution_timeout_from_hand_out(queue: JobQueue, clock: Clock) -> None:
    for id in ("waits", "runs"):
        queue.submit(new(id, ttl=20 if id == "waits" else TTL, low_priority=id == "waits"))
    queue.take("w")
    clock.now += 19.9
    assert queue.expire() == []
    clock.now += 0.1
    [waits] = queue.expire()
    assert (waits.id, waits.status, "ttl" in waits.error) == ("waits", "TIMED_OUT", True)
    clock.now += 10
    [runs] = queue.expire()
    assert (runs.id, runs.status, runs.worker, "executionTimeout" in runs.error) == ("runs", "TIMED_OUT", "w", True)
    assert queue.finish("runs", "w", DONE) is None


def test_an_expired_job_is_not_handed_out(queue: JobQueue, clock: Clock) -> None:
    queue.submit(new("a"))
    clock.now += TTL
    assert queue.take("w") == []


def test_results_are_kept_for_a_while_and_then_gone(queue: JobQueue, clock: Clock) -> None:
    queue.submit(new("a"))
    queue.take("w")
    queue.finish("a", "w", DONE)
    clock.now += KEEP - 1
    assert queue.forget() == 0
    assert queue.get("a")
    clock.now += 1
    assert queue.get("a") is None
    assert queue.forget() == 1


def test_a_retry_starts_from_nothing(queue: JobQueue, clock: Clock) -> None:
    queue.submit(new("a"))
    queue.submit(new("b"))
    assert queue.retry("a") is None
    queue.take("w")
    queue.add_chunk("a", "w", "{}")
    queue.finish("a", "w", BAD)
    clock.now += 7
    again = queue.retry("a")
    assert (again.status, again.error, again.output, again.worker) == ("IN_QUEUE", None, None, None)
    assert queue.read_chunks("a") == []
    assert ids(queue.take("w", 2)) == ["b", "a"]
    assert queue.finish("a", "w", DONE).delay_ms == 0
    assert queue.retry("a") is None
    assert queue.totals() == {"completed": 1, "failed": 1, "retried": 1}


def test_purge_cancels_what_waits_and_leaves_what_runs(queue: JobQueue) -> None:
    for id in ("a", "b", "c"):
        queue.submit(new(id))
    queue.take("w")
    assert [job.id for job in queue.purge()] == ["b", "c"]
    assert queue.get("a").status == "IN_PROGRESS"
    assert queue.get("b").status == "CANCELLED"


def test_pieces_are_read_once_and_in_order(queue: JobQueue) -> None:
    queue.submit(new("a"))
    queue.take("w")
    assert queue.add_chunk("a", "w", "1")
    assert queue.add_chunk("a", "w", "2")
    assert not queue.add_chunk("a", "other", "9")
    assert queue.read_chunks("a") == ["1", "2"]
    queue.add_chunk("a", "w", "3")
    assert queue.read_chunks("a") == ["3"]
    assert queue.read_chunks("a") == []


def test_a_webhook_is_due_until_it_is_accepted_or_given_up(queue: JobQueue, clock: Clock) -> None:
    queue.submit(new("a", webhook="http://x/"))
    assert queue.due_webhooks() == []
    queue.take("w")
    queue.finish("a", "w", DONE)
    for _ in range(2):
        [due] = due_jobs(queue)
        queue.webhook_answered(due, accepted=False, attempts=3, delay=10)
        assert queue.due_webhooks() == []
        clock.now += 10
    clock.now += KEEP
    assert queue.forget() == 0, "a result is kept while its webhook is due"
    [due] = due_jobs(queue)
    queue.webhook_answered(due, accepted=False, attempts=3, delay=10)
    clock.now += 10
    assert queue.due_webhooks() == []
    assert queue.forget() == 1


def test_a_note_on_a_webhook_of_an_earlier_end_is_void(queue: JobQueue, clock: Clock) -> None:
    queue.submit(new("a", webhook="http://x/"))
    queue.take("w")
    queue.finish("a", "w", BAD)
    [sent] = due_jobs(queue)
    queue.retry("a")
    queue.take("w")
    clock.now += 1
    queue.finish("a", "w", DONE)
    queue.webhook_answered(sent, accepted=True, attempts=3, delay=10)
    assert [job.status for job in due_jobs(queue)] == ["COMPLETED"]


def due_jobs(queue: JobQueue) -> list[Job]:
    return [job for id in queue.due_webhooks() if (job := queue.due_webhook(id)) is not None]


def test_every_receiver_has_its_turn_among_the_webhooks_that_are_due(queue: JobQueue, clock: Clock) -> None:
    for number in range(20):
        queue.submit(new(f"dead{number:02}", webhook=f"http://dead:80/{number}"))
        clock.now += 1
    queue.submit(new("alive", webhook="http://alive/"))
    queue.purge()
    assert set(queue.due_webhooks(4, 3)) == {"alive", "dead00", "dead01", "dead02"}
    assert len(queue.due_webhooks(10, 3)) == 4
    assert len(queue.due_webhooks(2, 3)) == 2
    assert "alive" in queue.due_webhooks(2, 3)
    assert queue.due_webhook("alive") is not None
    queue.webhook_answered(queue.due_webhook("alive"), accepted=True, attempts=3, delay=10)
    assert queue.due_webhook("alive") is None


def test_a_queue_of_a_later_version_is_refused(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "q")
    queue._db.execute("PRAGMA user_version=99")
    queue.close()
    with pytest.raises(RuntimeError, match="later version"):
        JobQueue(tmp_path / "q")


class QueueLaws(RuleBasedStateMachine):
    """The queue against a model of a few lines: a dictionary of states. The file is reopened at any moment."""

    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "queue.sqlite"
        self._clock = Clock()
        self._model: dict[str, str] = {}
        self._holder: dict[str, str] = {}
        self._ends: dict[str, int] = {}
        self._allowed_ends: dict[str, int] = {}
        self._queue = JobQueue(self._path, max_attempts=ATTEMPTS, clock=self._clock)

    def teardown(self) -> None:
        self._queue.close()
        self._folder.cleanup()

    def _ended(self, id: str, status: str) -> None:
        assert self._model[id] in ("IN_QUEUE", "IN_PROGRESS"), "a job ends once"
        self._model[id] = status
        self._holder.pop(id, None)
        self._ends[id] += 1

    @rule(target=jobs, low=st.booleans())
    def submit(self, low: bool) -> str:
        id = f"job{len(self._model)}"
        self._queue.submit(new(id, low_priority=low, keep=1e9))
        self._model[id] = "IN_QUEUE"
        self._ends[id], self._allowed_ends[id] = 0, 1
        return id

    @rule(worker=st.sampled_from("abc"), count=st.integers(1, 3))
    def take(self, worker: str, count: int) -> None:
        for work in self._queue.take(worker, count):
            assert self._model[work.job.id] == "IN_QUEUE", "a job is in one pair of hands"
            self._model[work.job.id] = "IN_PROGRESS"
            self._holder[work.job.id] = worker

    @rule(job=jobs, worker=st.sampled_from("abc"), outcome=st.sampled_from([DONE, BAD]))
    def finish(self, job: str, worker: str, outcome: Outcome) -> None:
        held = self._holder.get(job) == worker
        ended = self._queue.finish(job, worker, outcome)
        assert (ended is not None) == held
        if held:
            self._ended(job, outcome.status)

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        alive = self._model[job] not in FINAL
        assert (self._queue.cancel(job) is not None) == alive
        if alive:
            self._ended(job, "CANCELLED")

    @rule(job=jobs)
    def retry(self, job: str) -> None:
        failed = self._model[job] in ("FAILED", "TIMED_OUT")
        assert (self._queue.retry(job) is not None) == failed
        if failed:
            self._model[job] = "IN_QUEUE"
            self._allowed_ends[job] += 1

    @rule(worker=st.sampled_from("abc"))
    def worker_dies(self, worker: str) -> None:
        held = {id for id, holder in self._holder.items() if holder == worker}
        lost = self._queue.lose(worker)
        assert {job.id for job in lost} == held
        for job in lost:
            if job.final:
                self._ended(job.id, job.status)
            else:
                self._model[job.id] = "IN_QUEUE"
                del self._holder[job.id]

    @rule(job=jobs, worker=st.sampled_from("abc"))
    def put_back(self, job: str, worker: str) -> None:
        held = self._holder.get(job) == worker
        assert self._queue.put_back(job, worker) == held
        if held:
            self._model[job] = "IN_QUEUE"
            del self._holder[job]

    @rule(seconds=st.floats(0, 60))
    def time_passes(self, seconds: float) -> None:
        self._clock.now += seconds
        for job in self._queue.expire():
            self._ended(job.id, "TIMED_OUT")

    @rule()
    def purge(self) -> None:
        waiting = {id for id, status in self._model.items() if status == "IN_QUEUE"}
        assert {job.id for job in self._queue.purge()} == waiting
        for id in waiting:
            self._ended(id, "CANCELLED")

    @rule()
    def the_endpoint_is_killed_and_starts_again(self) -> None:
        # No close: the old connection is dropped as a kill would drop it.
        killed, self._queue = self._queue, JobQueue(self._path, max_attempts=ATTEMPTS, clock=self._clock)
        assert self._queue.recover() == len(self._holder)
        for id in self._holder:
            self._model[id] = "IN_QUEUE"
        self._holder.clear()
        killed.close()

    @rule(target=jobs, job=consumes(jobs))
    def nothing_forgotten_early(self, job: str) -> object:
        self._queue.forget()
        assert self._queue.get(job) is not None
        return multiple(job)

    @invariant()
    def the_file_agrees_with_the_model(self) -> None:
        for id, status in self._model.items():
            assert self._queue.get(id).status == status
            assert self._ends[id] <= self._allowed_ends[id]
        load = self._queue.load()
        states = list(self._model.values())
        assert load.queued + load.queued_low_priority == states.count("IN_QUEUE")
        assert load.running == states.count("IN_PROGRESS") == len(self._holder)


TestQueueLaws = QueueLaws.TestCase
TestQueueLaws.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
