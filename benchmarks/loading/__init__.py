"""What the scenarios `load` and `soak` are made of.

``corpus`` draws documents that never repeat, ``schedule`` says when each is sent, ``guests`` are the clients who send
them, ``generator`` is the process that does, ``tally`` turns answers into numbers. ``engine`` is the same work without
a server, ``grants`` watches what a limit grants, ``abandon`` counts what is computed for callers who have gone.
``users`` are the soak's: of every kind, good and bad.
"""
