"""Benchmarks of Octavo, as a client or through the public interfaces of encoder, chunking and server.

A **scenario** is a module of this package with a function `run`, whose parameters are declared with `click.option` and
which returns figures by id. The list of scenarios shows the first line of the module's docstring.

    @click.option("--rounds", default=5, show_default=True, help="…")
    def run(rounds: int) -> Figures:
        return {"some_ms": summarise(samples, "ms")}

`figures` defines results, `statistics` computes them from samples, `race` samples alternatives in turns, `histograms`
records durations, `targets` has the required values, `reporting` writes, prints and draws. `python -m benchmarks` lists
the scenarios.
"""
