"""The warden: a small process that forks jobs, so that no job outlives its worker.

It runs beside each worker (`WardenLink` starts it) and imports the standard library only, so that it starts and forks
fast. Its folder is imported by itself, not as part of the app: import nothing from outside it.

Each job has a keeper, a process that starts the command in a session of its own and stops it on request. If any of
them dies, the command dies too:

- the worker: the job's control socket ends, and the keeper kills the command;
- the warden: the keeper is signalled, and kills the command;
- the keeper: the command is signalled, and what else it started falls to the warden, which kills it.

A frozen worker sends no heartbeat. The warden then ends all its jobs, and starts no other until the next heartbeat.
"""
