"""Parts of the scenarios `load` and `soak`.

`corpus` draws documents that never repeat, `schedule` decides when each is sent, `guests` are the clients that
send them, `generator` is the process that does it, and `tally` turns answers into numbers. `grants` watches what
a limit grants; `abandon` counts what is computed for callers that have left. `users` are the soak's callers: of
every kind, well-behaved or not.
"""
