"""A model of the claim, lease, fencing token and cancel protocol, small enough to check every interleaving.

One job with at most two attempts, two workers, and a user who may cancel. The workers run it in one of three places: as
local processes, which end with their worker; in containers of an engine that both reach; or each in containers of an
engine of its own, which have the same alias. The steps are those of `container_manager.store` and
`container_manager.worker`: a transaction there is a step here. Between any two steps a worker may crash, or freeze and
wake up much later with its old knowledge, or lose its lease or its connection. A lost connection leaves three
possibilities, and the model has all: the transaction was committed and the answer is lost; it was rolled back; or it is
delayed and committed later, perhaps long after its sender has died.

A worker that crashes comes back at once, under a new id. So what it had may be rescued at once: its process is gone, and
whoever is on its host sees that; others wait, which is one of the orders.

The conditions in the store's statements keep the protocol correct. Each is a switch in `Guards`: the check is worth
something only if it finds a problem when one is missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

MAX_ATTEMPTS = 2
WORKERS = ("a", "b")
NOBODY = ""
# Ids that workers had before they registered again. They need not be told apart, except that of the sender of a
# delayed request: it may own an attempt.
DEAD, DEAD_SENDER = "dead", "dead sender"

# Where the job runs, and the engine of an attempt that is a local process.
LOCAL, SHARED, APART = PLACES = ("local processes", "one engine", "an engine for each worker")
NO_ENGINE = -1

TERMINAL = ("completed", "failed", "cancelled")
LAUNCHING = ("launching", "launching to be stopped", "abandoned while launching")
ENDED = ("success", "failure", "stopped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """The protocol's conditions. The code has all of them; a test removes one and must find a problem."""

    # finish(): WHERE worker = me AND attempt = n AND status = 'running'
    finish_checks_worker: bool = True
    finish_checks_attempt: bool = True
    finish_checks_status: bool = True
    # rescue(): UPDATE … SET worker = me, of the job and of its attempt, and only where there is no lease.
    rescue_moves_job: bool = True
    rescue_moves_attempt: bool = True
    rescue_waits_for_lease: bool = True
    # Local processes are rescued only OUTAGE_SECONDS after the last renewal (rescuable_at), containers when the lease ends.
    rescue_waits_for_outage: bool = True
    # rescue(): WHERE engine = the identity of the one that I reach
    rescue_checks_engine: bool = True
    # What no live worker reaches is given up after a while: by then one that reaches it would have rescued it.
    unreached_are_given_up: bool = True
    # Expired workers are deleted before a rescue: one that wakes up must abandon its attempts and register under a new id.
    dead_register_anew: bool = True
    # claim(): WHERE status = 'queued'
    claim_checks_status: bool = True
    # The warden kills a worker's processes by OUTAGE_SECONDS, and starts none until the next heartbeat.
    warden_ends_processes: bool = True
    # A worker without a lease creates and starts no containers.
    launch_checks_lease: bool = True
    # The worker does not launch an attempt that it has abandoned.
    launch_checks_owner: bool = True
    # The worker compares its runs with its open attempts in the database.
    worker_compares: bool = True


class Job(NamedTuple):
    status: str
    worker: str
    attempt: int


class Attempt(NamedTuple):
    """``fresh``: a local process, whose worker is the one that claimed it. ``ends``: how many times the job has stored an end of it.

    ``engine``: the identity of the one that has it.
    """

    worker: str
    fresh: bool
    open: bool
    ends: int
    engine: int = NO_ENGINE


class Worker(NamedTuple):
    """A worker: its row, and by attempt its run in memory and its process.

    ``lease``: valid; expired; rescuable (of local processes), OUTAGE_SECONDS after the renewal; or gone with its row. ``held``: "", one of LAUNCHING, abandoned, running, stopping, or one
    of ENDED, not stored yet. ``process``: "", running, succeeded. ``answer``: of the database, not received yet.

    A frozen worker needs no mark: it does nothing for a while. Nor does a dead one: a crash is a restart with an empty
    memory and a new id, after which it may do nothing, too.
    """

    lease: str = "valid"
    held: tuple[str, ...] = ("",) * MAX_ATTEMPTS
    process: tuple[str, ...] = ("",) * MAX_ATTEMPTS
    answer: tuple[Any, ...] = ()


class State(NamedTuple):
    """``late``: a request that its sender has given up, and that the database will still run.

    ``containers``: by attempt and engine: "", running, succeeded or failed.
    """

    job: Job
    attempts: tuple[Attempt, ...]
    workers: tuple[Worker, Worker]
    late: tuple[Any, ...] = ()
    place: str = LOCAL
    containers: tuple[tuple[str, str], ...] = (("", ""),) * MAX_ATTEMPTS


def start(place: str) -> State:
    """Return the state in which all begins."""
    return State(Job("queued", NOBODY, 0), (), (Worker(), Worker()), (), place)


class Step(NamedTuple):
    """``by``: a worker whose own progress this is, or one of these.

    FAULT: it may happen, or a user may do it; nothing may depend on it. ALL: it happens by itself. WITHOUT_a, …: it
    happens by itself if that worker does nothing for ever.
    """

    label: str
    by: str
    state: State


FAULT, ALL = "fault", "all"
WITHOUT = {"a": "without a", "b": "without b"}


class Broken(Exception):
    """A step did what must never happen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """``problem``: the first one found, with the ``trace`` of steps that leads to it; or None."""

    states: int
    steps: int
    problem: str | None = None
    trace: tuple[str, ...] = ()


# -- the database's transactions -------------------------------------------------------------------------------------


def claim(state: State, me: str, engine: int, guards: Guards) -> tuple[State, int]:
    """Return the state after a claim for an engine, and the number of the attempt; 0 if nothing was claimed."""
    job = state.job
    if job.status != "queued" and (guards.claim_checks_status or job.status != "running"):
        return state, 0
    number = job.attempt + 1
    if number > MAX_ATTEMPTS:
        return state, 0
    if number != len(state.attempts) + 1:
        raise Broken("an attempt's number is used twice")
    attempts = (*state.attempts, Attempt(me, engine == NO_ENGINE, True, 0, engine))
    return state._replace(job=Job("running", me, number), attempts=attempts), number


def finish(
    state: State, me: str, outcomes: tuple[tuple[int, str], ...], guards: Guards
) -> tuple[State, tuple[int, ...]]:
    """Return the state after a batch of outcomes, and the numbers of the attempts that are now closed."""
    closed = []
    for number, outcome in outcomes:
        before, job = state, state.job
        attempt = owner = state.attempts[number - 1]
        if outcome != "stopped" and _may_finish(job, me, number, guards):
            status = "completed" if outcome == "success" else "failed"
            if job.status == "cancelled":
                raise Broken(f"a cancelled job becomes {status} when a worker sends {outcomes}")
            if status == "failed" and job.attempt < MAX_ATTEMPTS:
                status = "retrying"
            job, attempt = Job(status, NOBODY, job.attempt), attempt._replace(ends=attempt.ends + 1)
        mine = attempt.worker == me or not guards.finish_checks_worker
        if mine and attempt.open and not (job.status == "running" and job.attempt == number):
            attempt = Attempt(NOBODY, False, False, attempt.ends)
            closed.append(number)
            state = _without_exited(state, number)
        state = _with_attempt(state._replace(job=job), number, attempt)
        if state != before and (owner.worker != me or not owner.open):
            raise Broken(f"a worker that has lost attempt {number} changes something when it sends {outcomes}")
    return state, tuple(closed)


def _may_finish(job: Job, me: str, number: int, guards: Guards) -> bool:
    return (
        (job.status == "running" or (not guards.finish_checks_status and job.status in TERMINAL))
        and (job.worker == me or not guards.finish_checks_worker)
        and (job.attempt == number or not guards.finish_checks_attempt)
    )


def rescue(state: State, me: str, guards: Guards) -> State:
    """Return the state after this worker has rescued the attempts of expired workers."""
    workers = list(state.workers)
    dead = {DEAD, DEAD_SENDER}
    for index, name in enumerate(WORKERS):
        if name == me:
            continue
        waits = state.place == LOCAL and guards.rescue_waits_for_outage
        is_over = workers[index].lease == "rescuable" or (workers[index].lease == "expired" and not waits)
        if is_over and guards.dead_register_anew:
            workers[index] = workers[index]._replace(lease="gone")
        if is_over or workers[index].lease == "gone" or not guards.rescue_waits_for_lease:
            dead.add(name)
    job, attempts = state.job, list(state.attempts)
    mine = engine_of(state, WORKERS.index(me))
    for index, attempt in enumerate(attempts):
        reached = attempt.engine == mine or not guards.rescue_checks_engine
        if attempt.open and attempt.worker in dead and reached:
            if job.status == "running" and job.attempt == index + 1 and guards.rescue_moves_job:
                job = Job(job.status, me, job.attempt)
            if guards.rescue_moves_attempt:
                attempts[index] = attempt._replace(worker=me, fresh=False)
    return state._replace(job=job, attempts=tuple(attempts), workers=(workers[0], workers[1]))


def give_up(state: State, number: int, me: str, guards: Guards) -> State:
    """Return the state after this worker has closed an attempt, as lost, whose engine no live worker reaches."""
    job, attempt = state.job, state.attempts[number - 1]
    if job == Job("running", attempt.worker, number):
        job = job._replace(worker=me)
    state = _with_attempt(state._replace(job=job), number, attempt._replace(worker=me, fresh=False))
    # Its container may run beside the next attempt until a worker reaches it, and removes it: nobody can do more.
    state = _with_container(state, number, attempt.engine, "")
    state, _ = finish(state, me, ((number, "failure" if job.worker == me else "stopped"),), guards)
    return state


def owned(state: State, me: str) -> tuple[tuple[int, str, bool], ...]:
    """Return this worker's open attempts: number, the job's status, and whether it was this worker that claimed it."""
    return tuple(
        (number, state.job.status if state.job.attempt == number else "", attempt.fresh)
        for number, attempt in enumerate(state.attempts, start=1)
        if attempt.worker == me
    )


def engine_of(state: State, index: int) -> int:
    """Return the identity of the engine that a worker reaches."""
    return {LOCAL: NO_ENGINE, SHARED: 0, APART: index}[state.place]


# -- the steps -------------------------------------------------------------------------------------------------------


def steps(state: State, guards: Guards) -> Iterator[Step]:
    """Yield every possible next step."""
    job = state.job
    if job.status not in ("completed", "cancelled"):
        yield Step("the user cancels", FAULT, state._replace(job=job._replace(status="cancelled")))
    if job.status == "retrying":
        yield Step("the retry is queued", ALL, state._replace(job=Job("queued", NOBODY, job.attempt)))
    if state.late:
        yield Step(f"what {state.late[1]} sent arrives: {state.late[0]}", FAULT, _arrive(state, guards))
    yield from _container_steps(state)
    for index, name in enumerate(WORKERS):
        yield from _faults(state, index, guards)
        yield from _process_steps(state, index)
        yield from _launch_steps(state, index, guards)
        if answer := state.workers[index].answer:
            yield Step(f"{name} hears: {answer[0]} {answer[1]}", name, _hear(state, index))
            yield Step(f"{name} never hears: {answer[0]} {answer[1]}", FAULT, _asked(state, index, ()))
        else:
            yield from _worker_steps(state, index, guards)


def _worker_steps(state: State, index: int, guards: Guards) -> Iterator[Step]:
    """Yield what a worker that waits for no answer may do next: the loop's order is one of these orders."""
    name, worker = WORKERS[index], state.workers[index]
    if worker.lease != "valid":
        yield Step(f"{name} renews its lease", name, _renew(state, index))
    for number, held in enumerate(worker.held, start=1):
        if held in ("running", "stopping") and (phase := _phase(state, index, number)) != "running":
            end = "stopped" if held == "stopping" else "success" if phase == "succeeded" else "failure"
            yield Step(f"{name} sees {end} of {number}", name, _with_held(state, index, number, end, ""))
        elif held == "stopping" and state.place != LOCAL:
            stopped = _with_container(state, number, engine_of(state, index), "")
            yield Step(f"{name} stops the container of {number}", name, stopped)
        elif held == "abandoned":
            yield Step(f"{name} ends its {number}", name, _with_held(state, index, number, "", ""))
    outcomes = tuple((number, held) for number, held in enumerate(worker.held, start=1) if held in ENDED)
    if outcomes:
        label = f"{name} sends finish {outcomes}"
        after, closed = finish(state, name, outcomes, guards)
        yield Step(label, name, _asked(after, index, ("finish", closed)))
        if not state.late:
            yield Step(f"{label}, which is held up", FAULT, state._replace(late=("finish", name, outcomes)))
    engine = engine_of(state, index)
    after, number = claim(state, name, engine, guards)
    if number:
        yield Step(f"{name} claims", name, _asked(after, index, ("claim", number)))
    if not state.late and state.job.status not in TERMINAL:
        yield Step(f"{name} claims, which is held up", FAULT, state._replace(late=("claim", name, engine)))
    found = owned(state, name)
    if guards.worker_compares and not _agree(worker, found, state.place):
        yield Step(f"{name} asks what it owns", name, _asked(state, index, ("owned", found)))
    after = rescue(state, name, guards)
    if after != state:
        yield Step(f"{name} rescues", name, after)
    if state.place == APART and guards.unreached_are_given_up:
        yield from _unreached(state, index, guards)


def _unreached(state: State, index: int, guards: Guards) -> Iterator[Step]:
    """Yield what a worker gives up that nobody reaches: while the one that does lives, it is sooner, and so not last."""
    name, other = WORKERS[index], WORKERS[1 - index]
    gone = {DEAD, DEAD_SENDER, *([other] if state.workers[1 - index].lease == "gone" else [])}
    for number, attempt in enumerate(state.attempts, start=1):
        if attempt.open and attempt.worker in gone and attempt.engine != index:
            yield Step(f"{name} gives {number} up", WITHOUT[other], give_up(state, number, name, guards))


def _launch_steps(state: State, index: int, guards: Guards) -> Iterator[Step]:
    """Yield launches: they run in threads, at any time."""
    name, worker = WORKERS[index], state.workers[index]
    for number, held in enumerate(worker.held, start=1):
        if held not in LAUNCHING:
            continue
        if held == LAUNCHING[2] and guards.launch_checks_owner:
            yield Step(f"{name} does not start {number}", name, _with_held(state, index, number, "", ""))
            continue
        then = ("running", "stopping", "abandoned")[LAUNCHING.index(held)]
        if state.place != LOCAL:
            if worker.lease == "valid" or not guards.launch_checks_lease:
                # Only what was never started is started.
                phase = _phase(state, index, number) or "running"
                after = _with_container(state, number, engine_of(state, index), phase)
                yield Step(f"{name} starts {number}", name, _with_held(after, index, number, then, ""))
            continue
        # A warden that does not hear its worker starts nothing.
        process = "running" if worker.lease in ("valid", "expired") or not guards.warden_ends_processes else ""
        yield Step(f"{name} starts {number}", name, _with_held(state, index, number, then, process))


def _process_steps(state: State, index: int) -> Iterator[Step]:
    """Yield ends of processes."""
    name, worker = WORKERS[index], state.workers[index]
    for number, process in enumerate(worker.process, start=1):
        if process != "running":
            continue
        held = worker.held[number - 1]
        if held == "stopping":
            yield Step(f"{number} of {name} is stopped", name, _with_held(state, index, number, held, ""))
            continue
        # What ought to be stopped must not be taken to end by itself: that is no progress.
        by = ALL if state.job == Job("running", name, number) else FAULT
        yield Step(f"{number} of {name} succeeds", by, _with_held(state, index, number, held, "succeeded"))
        yield Step(f"{number} of {name} fails", by, _with_held(state, index, number, held, ""))


def _container_steps(state: State) -> Iterator[Step]:
    """Yield ends of containers."""
    for number, phases in enumerate(state.containers, start=1):
        for engine, phase in enumerate(phases):
            if phase == "running":
                by = ALL if state.job.status == "running" and state.job.attempt == number else FAULT
                for end in ("succeeded", "failed"):
                    label = f"the container of {number} on engine {engine} has {end}"
                    yield Step(label, by, _with_container(state, number, engine, end))


def _faults(state: State, index: int, guards: Guards) -> Iterator[Step]:
    name, worker = WORKERS[index], state.workers[index]
    if worker.lease == "valid":
        after = _with_worker(state, index, worker._replace(lease="expired"))
        yield Step(f"the lease of {name} runs out", WITHOUT[name], after)
    if worker.lease == "expired" and state.place == LOCAL:
        process = worker.process
        if guards.warden_ends_processes:
            process = tuple("" if p == "running" else p for p in process)
        after = _with_worker(state, index, worker._replace(lease="rescuable", process=process))
        yield Step(f"the outage of {name} lasts", WITHOUT[name], after)
    if worker != Worker():
        # Its memory goes, and its processes with it. Its lease may end at once: were it to last, all would wait.
        yield Step(f"{name} crashes and starts anew", FAULT, _register(_with_worker(state, index, Worker()), index))


# -- what a worker does with an answer -------------------------------------------------------------------------------


def _hear(state: State, index: int) -> State:
    worker = state.workers[index]
    kind, content = worker.answer
    held, process = list(worker.held), list(worker.process)
    if kind == "claim":
        held[content - 1] = "launching"
    elif kind == "finish":
        for number in content:
            held[number - 1] = ""
    else:
        _compare(content, held, process, state.place)
    return _with_worker(state, index, worker._replace(held=tuple(held), process=tuple(process), answer=()))


def _compare(found: tuple[tuple[int, str, bool], ...], held: list[str], process: list[str], place: str) -> None:
    """Abandon attempts that were lost, stop those that were cancelled, adopt those that were rescued."""
    known = {number: (status, fresh) for number, status, fresh in found}
    for position, what in enumerate(held):
        if position + 1 not in known:
            _abandon(position, held, process)
            continue
        status, fresh = known[position + 1]
        if not what:
            # What it claimed itself and does not hold was never started: the answer was lost. A container may have been:
            # to launch it again is harmless.
            launches = fresh or place != LOCAL
            held[position] = "stopping" if status != "running" else "launching" if launches else "running"
        elif status != "running":
            held[position] = {"launching": LAUNCHING[1], "running": "stopping"}.get(what, what)


def _abandon(position: int, held: list[str], process: list[str]) -> None:
    if held[position] in LAUNCHING:
        held[position] = LAUNCHING[2]
    else:
        held[position] = process[position] = ""


def _agree(worker: Worker, found: tuple[tuple[int, str, bool], ...], place: str) -> bool:
    """Tell whether a comparison would change nothing, now or when its answer is received."""
    held, process = list(worker.held), list(worker.process)
    _compare(found, held, process, place)
    return tuple(held) == worker.held


def _renew(state: State, index: int) -> State:
    worker = state.workers[index]
    if worker.lease != "gone":
        return _with_worker(state, index, worker._replace(lease="valid"))
    held, process = list(worker.held), list(worker.process)
    for position in range(MAX_ATTEMPTS):
        _abandon(position, held, process)
    dropped = worker._replace(held=tuple(held), process=tuple(process))
    return _register(_with_worker(state, index, dropped), index)


def _register(state: State, index: int) -> State:
    """Return the state in which this worker has a new id, and a lease."""
    name, late = WORKERS[index], state.late
    former = DEAD
    if late and late[1] == name:
        former, late = DEAD_SENDER, (late[0], DEAD_SENDER, *late[2:])
    state = _renamed(state._replace(late=late), {name: former})
    return _with_worker(state, index, state.workers[index]._replace(lease="valid"))


def _arrive(state: State, guards: Guards) -> State:
    """Return the state after the database has run the delayed request."""
    kind, sender, content = state.late
    if kind == "claim":
        state, _ = claim(state, sender, content, guards)
    else:
        state, _ = finish(state, sender, content, guards)
    return _renamed(state._replace(late=()), {DEAD_SENDER: DEAD})


# -- small things ----------------------------------------------------------------------------------------------------


def _with_worker(state: State, index: int, worker: Worker) -> State:
    first, second = state.workers
    return state._replace(workers=(worker, second) if index == 0 else (first, worker))


def _with_attempt(state: State, number: int, attempt: Attempt) -> State:
    return state._replace(attempts=(*state.attempts[: number - 1], attempt, *state.attempts[number:]))


def _with_container(state: State, number: int, engine: int, phase: str) -> State:
    first, second = state.containers[number - 1]
    phases = (phase, second) if engine == 0 else (first, phase)
    return state._replace(containers=(*state.containers[: number - 1], phases, *state.containers[number:]))


def _without_exited(state: State, number: int) -> State:
    """Return the state after the containers of an attempt whose end is stored were removed."""
    for engine, phase in enumerate(state.containers[number - 1]):
        if phase in ("succeeded", "failed"):
            state = _with_container(state, number, engine, "")
    return state


def _phase(state: State, index: int, number: int) -> str:
    """Return what a worker sees of an attempt: of its own process, or of a container on the engine that it reaches."""
    if state.place == LOCAL:
        return state.workers[index].process[number - 1]
    return state.containers[number - 1][engine_of(state, index)]


def _with_held(state: State, index: int, number: int, held: str, process: str) -> State:
    worker = state.workers[index]
    return _with_worker(
        state,
        index,
        Worker(worker.lease, _put(worker.held, number, held), _put(worker.process, number, process), worker.answer),
    )


def _put(values: tuple[str, ...], number: int, value: str) -> tuple[str, ...]:
    return (*values[: number - 1], value, *values[number:])


def _asked(state: State, index: int, answer: tuple[Any, ...]) -> State:
    return _with_worker(state, index, state.workers[index]._replace(answer=answer))


def _renamed(state: State, names: dict[str, str]) -> State:
    def new(name: str) -> str:
        return names.get(name, name)

    job = Job(state.job.status, new(state.job.worker), state.job.attempt)
    attempts = tuple(attempt._replace(worker=new(attempt.worker)) for attempt in state.attempts)
    return state._replace(job=job, attempts=attempts)


# -- the check -------------------------------------------------------------------------------------------------------


def problem_of(state: State) -> str | None:
    """Return what is wrong with a state; None if nothing is."""
    job = state.job
    if any(attempt.ends > 1 for attempt in state.attempts):
        return "an attempt is ended twice"
    if sum(attempt.open for attempt in state.attempts) > 1:
        return "two attempts are open"
    if job.status == "running":
        current = state.attempts[job.attempt - 1]
        if not current.open or current.worker != job.worker:
            return "the job runs, and its attempt is closed or another's"
    if _running(state) > 1:
        return "the job runs twice at once"
    return None


def _running(state: State) -> int:
    """Return how many processes and containers run."""
    phases = (phase for every in (*state.containers, *(w.process for w in state.workers)) for phase in every)
    return sum(phase == "running" for phase in phases)


def is_settled(state: State) -> bool:
    """Tell whether the job has ended, its attempts are closed and nothing of it runs."""
    return state.job.status in TERMINAL and not any(attempt.open for attempt in state.attempts) and not _running(state)


def check(
    guards: Guards, *, places: Sequence[str] = PLACES, forgetting: bool = True, without: Collection[str] = ()
) -> Result:
    """Check every reachable state, breadth first, and return the first problem, or that there is none.

    First, that no step and no state is wrong. Then, that none is a dead end: from each the job settles by the progress
    of one worker alone, whichever it is, while the other does nothing for ever. ``without``: problems to pass over.
    """
    states = steps = 0
    for place in places:
        search = _Search(guards, place, forgetting=forgetting and _may_forget(guards), without=without)
        result = search.explore() or search.dead_end() or search.result(None, 0)
        states, steps = states + result.states, steps + result.steps
        if result.problem is not None:
            break
    return replace(result, states=states, steps=steps)


def _may_forget(guards: Guards) -> bool:
    finish = guards.finish_checks_worker and guards.finish_checks_attempt and guards.finish_checks_status
    return finish and guards.launch_checks_owner


class _Search:
    """A breadth-first search. Of two states that differ by the workers' names only, one is kept."""

    def __init__(self, guards: Guards, place: str, *, forgetting: bool, without: Collection[str]) -> None:
        self._guards, self._forgetting, self._without = guards, forgetting, without
        self.states = [start(place)]
        self._numbers = {self.states[0]: 0}
        self._came_from = [0]
        self._steps = 0
        # For each state and worker, the states and workers from which that worker's progress leads there.
        self._before: list[tuple[list[tuple[int, int]], list[tuple[int, int]]]] = [([], [])]

    def explore(self) -> Result | None:
        for source, state in enumerate(self.states):  # which grows meanwhile
            try:
                for step in steps(state, self._guards):
                    self._steps += 1
                    found, mirrored = self._kept(step.state)
                    target = self._numbers.get(found)
                    if target is None:
                        target = self._add(found, source)
                        problem = problem_of(found)
                        if problem is not None and problem not in self._without:
                            return self.result(problem, target)
                    for index, name in enumerate(WORKERS):
                        if step.by in (name, ALL, WITHOUT[_OTHER[name]]):
                            self._before[target][index ^ mirrored].append((source, index))
            except Broken as broken:
                return self.result(str(broken), source)
        return None

    def dead_end(self) -> Result | None:
        """Return the nearest state from which one worker alone cannot settle the job."""
        good = {(number, index) for number, s in enumerate(self.states) if is_settled(s) for index in (0, 1)}
        waiting = deque(good)
        while waiting:
            number, index = waiting.popleft()
            for earlier in self._before[number][index]:
                if earlier not in good:
                    good.add(earlier)
                    waiting.append(earlier)
        for number in range(len(self.states)):
            for index, name in enumerate(WORKERS):
                if (number, index) not in good:
                    return self.result(
                        "one worker alone does not settle the job", number, f"{name}: {self.states[number]}"
                    )
        return None

    def result(self, problem: str | None, number: int, *more: str) -> Result:
        trace = () if problem is None else (*self._trace(number), *(more or (problem,)))
        return Result(states=len(self.states), steps=self._steps, problem=problem, trace=trace)

    def _add(self, state: State, source: int) -> int:
        number = self._numbers[state] = len(self.states)
        self.states.append(state)
        self._came_from.append(source)
        self._before.append(([], []))
        return number

    def _kept(self, state: State) -> tuple[State, bool]:
        """Return the representative of a state, and whether the workers' names are exchanged in it."""
        if self._forgetting:
            state = forget(state)
        first, second = state.workers
        if first < second:
            return state, False
        other = mirrored(state)
        return (other, True) if second < first or other < state else (state, False)

    def _trace(self, number: int) -> list[str]:
        """Return the labels of the steps to a state, each worker under one name throughout."""
        path = [number]
        while path[-1]:
            path.append(self._came_from[path[-1]])
        state, labels = self.states[0], []
        for goal in reversed(path[:-1]):
            for step in steps(state, self._guards):
                if self._kept(step.state)[0] == self.states[goal]:
                    break
            labels.append(step.label)
            state = forget(step.state) if self._forgetting else step.state
        return labels


_OTHER = {"a": "b", "b": "a"}


def mirrored(state: State) -> State:
    """Return the state with the workers' names exchanged."""
    late, attempts, containers = state.late, state.attempts, state.containers
    if late:
        late = (late[0], _OTHER.get(late[1], late[1]), late[2])
    if state.place == APART:
        # With the workers, so are their engines.
        other = {0: 1, 1: 0, NO_ENGINE: NO_ENGINE}
        attempts = tuple(attempt._replace(engine=other[attempt.engine]) for attempt in attempts)
        containers = tuple((second, first) for first, second in containers)
        if late and late[0] == "claim":
            late = (*late[:2], other[late[2]])
    workers = state.workers[::-1]
    return _renamed(State(state.job, attempts, (workers[0], workers[1]), late, state.place, containers), _OTHER)


def forget(state: State) -> State:
    """Return the state without details that no later step depends on, which leaves fewer states to check.

    Valid only if finish and launch have all their conditions. Once the job has ended, a finish closes an attempt or does
    nothing, whatever its outcome. A run of a closed attempt has no effect, unless its process runs or is yet to start.
    Nor has a late request about a closed attempt, or about one that its dead sender has lost, or a late claim when no
    attempt is left.
    """
    job, attempts, workers, late, place, _ = state
    ended = job.status in TERMINAL
    if late and late[0] == "claim":
        if ended or job.attempt == MAX_ATTEMPTS:
            late = ()
    elif late:
        kind, sender, outcomes = late
        left = tuple(
            (number, "stopped" if ended else outcome)
            for number, outcome in outcomes
            if attempts[number - 1].open and (sender != DEAD_SENDER or attempts[number - 1].worker == DEAD_SENDER)
        )
        late = (kind, sender, left) if left else ()
    first, second = (_forget_of(worker, attempts, place, ended) for worker in workers)
    containers = state.containers
    if ended and place != LOCAL:
        containers = tuple(
            ("failed" if one == "succeeded" else one, "failed" if two == "succeeded" else two)
            for one, two in containers
        )
    return state._replace(workers=(first, second), late=late, containers=containers)


def _forget_of(worker: Worker, attempts: tuple[Attempt, ...], place: str, ended: bool) -> Worker:
    lease, held, process, answer = worker
    for number, attempt in enumerate(attempts, start=1):
        what, runs = held[number - 1], process[number - 1] == "running"
        if not attempt.open and not runs and what not in LAUNCHING[:2]:
            held, process = _put(held, number, ""), _put(process, number, "")
        elif ended and not runs:
            held = _put(held, number, "stopped" if what in ENDED else what)
            process = _put(process, number, "")
    worker = Worker(lease, held, process, answer)
    if answer and (answer[0] == "finish" or (answer[0] == "owned" and _agree(worker, answer[1], place))):
        return Worker(lease, held, process)
    return worker
