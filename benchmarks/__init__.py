"""Measures Octavo: as a client from outside, or through the public seams of encoder, chunking and server.

A **scenario** is a module of this package with a top-level function `run`: its parameters are the options, declared
on it with `click.option`; it returns figures by id. The module's first docstring line is what the list shows.

    @click.option("--rounds", default=5, show_default=True, help="…")
    def run(rounds: int) -> Figures:
        return {"some_ms": summarise(samples, "ms")}

`figures` is what comes back, `statistics` makes it from samples, `race` takes the samples side by side,
`histograms` keeps durations whole, `targets` holds the promises, `reporting` writes, prints and draws.
`python -m benchmarks` lists the scenarios.
"""
