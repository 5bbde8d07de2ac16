"""Parts of the scenarios `load` and `soak`.

`corpus` generates documents that never repeat, `schedule` plans when each is sent, `guests` are the clients that send
them, `generator` is the process that does it, and `tally` computes figures from the answers. `grants` measures what a
limit grants; `abandon` counts work for callers that have left. `users` are the clients of `soak`, well-behaved or not.
"""
