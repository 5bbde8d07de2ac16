"""The instruments, the watch over the event loop, and the page that documents them."""

import asyncio
import platform
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from cache import CacheSettings, KeyMaker, Store
from server.commands.reference import DOCS, metrics_table, renewed
from server.health.loop_watch import PERIOD_SECONDS, LoopWatch
from server.telemetry.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_two_servers_in_one_process_do_not_share_instruments() -> None:
    one, other = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    one.queue_depth.set(3)
    assert value(one, "octavo_queue_depth_segments") == 3
    assert value(other, "octavo_queue_depth_segments") == 0


def test_an_answered_call_counts_by_method_code_and_reason(metrics: Metrics) -> None:
    metrics.observe_request("Embed", "OK", "", 0.3)
    metrics.observe_request("Embed", "INVALID_ARGUMENT", "EMPTY_DOCUMENT", 0.1)
    assert value(metrics, "octavo_requests_total", method="Embed", code="OK", reason="") == 1
    refused = value(metrics, "octavo_requests_total", method="Embed", code="INVALID_ARGUMENT", reason="EMPTY_DOCUMENT")
    assert refused == 1
    assert value(metrics, "octavo_request_duration_seconds_count", method="Embed") == 2
    assert value(metrics, "octavo_request_duration_seconds_sum", method="Embed") == pytest.approx(0.4)


def test_the_worst_lag_is_that_since_the_scrape_before(metrics: Metrics) -> None:
    metrics.lagged(0.2)
    metrics.lagged(0.1)
    assert value(metrics, "octavo_event_loop_lag_max_seconds") == 0.2
    assert value(metrics, "octavo_event_loop_lag_max_seconds") == 0
    assert value(metrics, "octavo_event_loop_lag_seconds_count") == 2


def test_what_runs_is_told(metrics: Metrics) -> None:
    scrape = generate_latest(metrics.registry).decode()
    assert f'octavo_build_info{{python="{platform.python_version()}"' in scrape
    assert (value(metrics, "process_resident_memory_bytes") or 0) > 1e6


def test_every_instrument_is_described_as_it_is_scraped(metrics: Metrics, tmp_path: Path) -> None:
    with Store(CacheSettings(folder=tmp_path), KeyMaker(bytes(32))) as store:
        metrics.register_cache(store)
        check_descriptions(metrics)


def check_descriptions(metrics: Metrics) -> None:
    described = {each.name.removesuffix("_total"): (each.kind, each.meaning) for each in metrics.descriptions}
    families = [family for family in metrics.registry.collect() if family.name.startswith("octavo_")]
    assert described == {family.name: (family.type, family.documentation) for family in families}


def test_the_document_tells_what_the_code_does() -> None:
    page = (DOCS / "metrics.md").read_text("utf-8")
    assert page == renewed(page, metrics_table()), "run python -m server.commands.reference"


async def test_a_blocked_loop_is_reported_with_its_whole_delay() -> None:
    lags: list[float] = []
    watch = LoopWatch(asyncio.get_running_loop(), lags.append)
    watch.start()
    await asyncio.sleep(0.2)
    idle = len(lags)
    assert idle >= 4
    time.sleep(0.2)  # noqa: ASYNC251 - to block the loop is the point
    assert watch.silent_seconds >= 0.2
    await asyncio.sleep(0.05)
    watch.stop()
    watch.stop()
    assert 0.2 - PERIOD_SECONDS <= max(lags[idle:]) < 0.4
    assert all(lag >= 0 for lag in lags)
    told = len(lags)
    await asyncio.sleep(3 * PERIOD_SECONDS)
    assert len(lags) == told
