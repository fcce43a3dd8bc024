"""The warden: a small process that forks jobs, so that no job outlives its worker.

It runs beside each worker (`WardenLink` starts it) and imports the standard library only, so that it starts and forks
fast. Its folder is imported by itself, not as part of the app: import nothing from outside it.

A running job has a keeper, a process that starts the command in a session of its own, stops it on request, and adopts
all that it starts. A keeper whose job has ended waits for another. If any of them dies, the command dies too:

- the worker: the keeper's control socket ends, and the keeper kills the command;
- the warden: its keepers are signalled, and kill their commands;
- the keeper: all that it started falls to the warden, which kills it.

A frozen worker sends no heartbeat. The warden then ends all its keepers with their jobs, and forks no other until the
next heartbeat.
"""
