"""Generated and broken HTTP requests to every path; reproducible by seed.

schemathesis runs in an environment of its own, made by `make test-clients`.
"""

import asyncio
import json
import random
import re
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import click

from benchmarks.doors.clients import python_of
from benchmarks.figures import Figure, Figures
from benchmarks.served import Served, serve

FAULTS = ("INTERNAL", "UNKNOWN")
MODELS = ("all-MiniLM-L6-v2", "splade-tiny", "reuters-r8", "sensitive-info-rampart")
LOST = "LOST"
OURS = ("500", "424")  # statuses of an error of ours; 424 is TEI's
_IN_FLIGHT = 16
_SECONDS = 60.0  # a request that has not ended by then never will
_BATCH = 2_000
_EXAMPLES = 60  # of schemathesis, an operation
_NAMES = (
    *("input", "inputs", "model", "text", "texts", "query", "documents", "document", "tasks", "options", "ids"),
    *("dimensions", "truncate", "truncation_direction", "encoding_format", "raw_scores", "top_n", "embed", "name"),
    *(
        "start",
        "rank",
        "classify",
        "embedSparse",
        "redact",
        "spans",
        "segmentation",
        "maxTokens",
        "offsetUnit",
        "x" * 99,
    ),
)
_TEXTS = (
    "",
    " \n\t",
    "A sentence. ",
    "\x00\x07\u2028",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ",
    "[SEP] [CLS]",
    "e\u0301\u200d",
    "word ",
    "漢字",
    *MODELS,
)
_NUMBERS = (0, 1, -1, 2, 0.5, 1e308, -1e-308, 510, 1 << 31, 1 << 63, 1 << 64, 10**40)


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """A request's bytes, and the seconds after which its peer leaves, if it does."""

    data: bytes
    leaves: float | None


def measure(requests: int, seed: int) -> Figures:
    """Send both to a server with a model for each task, and count how they ended."""
    config = '[server]\nhttp_listen = "127.0.0.1:0"\n'
    with serve(*(flag for name in MODELS for flag in ("--model", name)), config=config) as served:
        paths = _paths(served)
        ends = asyncio.run(_send(served, (draw(seed, i, paths) for i in range(requests)), requests))
        failed, cases = _schemathesis(served, seed)
        alive = asyncio.run(_send(served, [_plain()], 1))
        left = _left_over(served)
        counted = sum(served.metric("octavo_requests_total", code=code) for code in FAULTS)
    faults = max(counted, sum(ends[status] for status in OURS)) + ends[LOST] + failed + left
    return {
        "doors_internal": Figure(faults + (alive["200"] != 1), "requests", n=requests + cases),
        "doors_schemathesis": Figure(failed, "failures", n=cases),
        **{f"doors_fuzz_ends.{status}": Figure(count, "requests") for status, count in sorted(ends.items())},
    }


def draw(seed: int, number: int, paths: dict[str, tuple[str, ...]]) -> Fuzzed:
    """Draw the request of this number: always the same one."""
    chance = random.Random(f"{seed}/{number}")
    path = chance.choice([*paths])
    method = chance.choice(paths[path]) if _happens(chance, 0.95) else chance.choice(("PUT", "HEAD", "OPTIONS", "X"))
    body = _body(chance, path)
    if _happens(chance, 0.3):
        body = _mutated(body, chance)
    length = len(body) if _happens(chance, 0.95) else chance.choice((0, -1, 10**12, len(body) + 5))
    fields = [f"Host: {chance.choice(('x', '', 'é', 'a' * 300))}", "Content-Type: application/json"]
    if _happens(chance, 0.1):
        fields.append(f"x-octavo-timeout: {chance.choice(('1', '0', '-1', 'nan', 'x'))}")
    if _happens(chance, 0.1):
        fields.append(f"Authorization: {chance.choice(('Bearer x', 'Bearer oct_x', 'Basic x', ''))}")
    fields.append(f"Content-Length: {length}" if _happens(chance, 0.9) else "Transfer-Encoding: chunked")
    fields.append("Connection: close")
    target = path.replace("{model}", chance.choice(("none", MODELS[0], "%00", "%ff", "a/b")))
    head = f"{method} {target}{chance.choice(('', '?', '?a=%', '#x'))} HTTP/1.1\r\n" + "\r\n".join(fields) + "\r\n\r\n"
    data = head.encode() + body
    broken = _happens(chance, 0.05)
    if broken:
        data = _mutated(data, chance)
    leaves = broken or _happens(chance, 0.1) or length != len(body) or "chunked" in head
    return Fuzzed(data, chance.uniform(0, 0.3) if leaves else None)


def _plain() -> Fuzzed:
    body = b'{"input": "A sentence."}'
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return Fuzzed(head.encode() + body, None)


def _paths(served: Served) -> dict[str, tuple[str, ...]]:
    with urllib.request.urlopen(f"{served.http}/openapi.json", timeout=10) as reply:  # noqa: S310 - of our own server
        made = json.load(reply)
    return {path: tuple(verb.upper() for verb in verbs) for path, verbs in made["paths"].items()}


def _body(chance: random.Random, path: str) -> bytes:
    if path.endswith("ProcessDocuments"):
        lines = [{"start": {"tasks": [{"embed": {}}]}}, *(_value(chance, 4) for _ in range(chance.randrange(4)))]
        lines += [{"document": {"id": str(i), "text": chance.choice(_TEXTS)}} for i in range(chance.randrange(4))]
        return b"\n".join(json.dumps(line).encode() for line in lines)
    made = _value(chance, 5) if _happens(chance, 0.3) else _object(chance, 4)
    if isinstance(made, dict) and _happens(chance, 0.7):
        made |= _plausible(chance)
    return json.dumps(made, ensure_ascii=_happens(chance, 0.5)).encode()


def _plausible(chance: random.Random) -> dict[str, Any]:
    text = chance.choice(_TEXTS) * chance.choice((1, 1, 1, 200))
    texts = [text, *(chance.choice(_TEXTS) for _ in range(chance.randrange(3)))]
    kind = chance.choice(("embed", "embedSparse", "classify", "classifyTokens", "redact", "rank"))
    return chance.choice(
        (
            {"input": texts},
            {"inputs": texts},
            {"inputs": text},
            {"query": text, "texts": texts, "documents": texts},
            {"document": {"text": text}, "tasks": [{"name": "a", kind: {}}]},
            {"document": {"text": text}},
            {"documents": [{"text": each} for each in texts]},
            {"texts": texts},
            {"ids": [chance.randrange(30_000) for _ in range(5)]},
        )
    )


def _object(chance: random.Random, depth: int) -> dict[str, Any]:
    return {chance.choice(_NAMES): _value(chance, depth - 1) for _ in range(chance.randrange(5))}


def _value(chance: random.Random, depth: int) -> Any:
    match chance.randrange(8 if depth else 5):
        case 0:
            return chance.choice(_NUMBERS)
        case 1:
            return chance.choice((None, True, False))
        case 2 | 3 | 4:
            return chance.choice(_TEXTS)
        case 5:
            return [_value(chance, depth - 1) for _ in range(chance.randrange(4))]
        case _:
            return _object(chance, depth)


def _mutated(data: bytes, chance: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(5):
            case 0 if at < len(made):
                made[at] ^= 1 << chance.randrange(8)
            case 1:
                del made[at:]
            case 2:
                made[at:at] = made[at : at + chance.randrange(1, 20)]
            case 3:
                made[at:at] = chance.randbytes(chance.randrange(1, 12))
            case _:
                made[at:at] = chance.choice((b"[", b'"', b"{", b"\\u", b"\r\n", b",")) * chance.choice((1, 10, 30_000))
    return bytes(made)


async def _send(served: Served, requests: Iterable[Fuzzed], count: int) -> Counter[str]:
    ends: Counter[str] = Counter()
    left = iter(requests)
    host, port = served.http.removeprefix("http://").split(":")

    async def work() -> None:
        for request in left:
            ends[await _end(host, int(port), request)] += 1
            if not (done := ends.total()) % _BATCH:
                click.echo(f"  {done:,} of {count:,}", err=True)

    async with asyncio.TaskGroup() as group:
        for _ in range(_IN_FLIGHT):
            group.create_task(work())
    return ends


async def _end(host: str, port: int, request: Fuzzed) -> str:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        async with asyncio.timeout(_SECONDS):
            writer.write(request.data)
            await writer.drain()
            if request.leaves is not None:
                await asyncio.sleep(request.leaves)
                return "left"
            came = await reader.read()
    except TimeoutError:
        return LOST
    except ConnectionError:
        return "closed"
    finally:
        writer.transport.abort()
    found = re.match(rb"HTTP/1\.1 (\d{3})", came)
    return found[1].decode() if found else "closed"


def _left_over(served: Served) -> float:
    """Requests that are still in progress though their peers have gone."""
    end = time.monotonic() + _SECONDS
    while (left := served.metric("octavo_requests_in_flight")) and time.monotonic() < end:
        time.sleep(0.5)
    return left


def _happens(chance: random.Random, share: float) -> bool:
    return chance.random() < share


def _schemathesis(served: Served, seed: int) -> tuple[int, int]:
    """Responses of 5xx that it provokes, and its requests. It has no generator for newline-delimited JSON."""
    python = python_of("schemathesis")
    command = [str(python.with_name("st")), "run", f"{served.http}/openapi.json", "--checks", "not_a_server_error"]
    command += ["--max-examples", str(_EXAMPLES), "--seed", str(seed), "--phases", "examples,coverage,fuzzing"]
    command += ["--exclude-path", "/octavo/v1/ProcessDocuments"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    cases = re.search(r"([\d,]+) generated", done.stdout)
    failed = len(re.findall(r"Test Case ID", done.stdout))
    if cases is None or (done.returncode and not failed):
        raise RuntimeError(f"schemathesis: {(done.stderr.strip() or done.stdout.strip())[-300:]}")
    return failed, int(cases[1].replace(",", ""))
