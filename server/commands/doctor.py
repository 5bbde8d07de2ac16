"""`octavo doctor`: checks everything that serving needs, and explains which kernels are used."""

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from prometheus_client import CollectorRegistry

from octavo.cli.exits import colour
from server.commands.access import certificate, keys, redis
from server.commands.finding import Finding
from server.commands.options import FAILURE, configuration, settings_options
from server.config.schema import ComputeSettings, ModelSettings, Settings
from server.errors import StartError, words_of
from server.inference.hardware import advice
from server.rpc.addresses import check_free
from server.telemetry import logs
from server.telemetry.metrics import Metrics

PACKAGES = ("torch", "transformers", "tokenizers", "sentencepiece", "safetensors", "grpcio", "protobuf", "numpy")
COLOURS = {"ok": "green", "note": "cyan", "warn": "yellow", "fail": "red"}
ISA_FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_int8": "AMX INT8",
    "amx_bf16": "AMX BF16",
}
"""Instruction sets that kernels depend on, by flag in /proc/cpuinfo."""


@click.command()
@settings_options
def doctor(**options: Any) -> None:
    """Check what the server needs, and explain its kernels.

    Checks settings, hardware, ports, access, cache and models. Takes the options of "octavo serve" and loads the models
    as it does. Exits with 1 if something would prevent the
    server from starting, with 2 if the settings are wrong.
    """
    settings = configuration(**options).settings
    logs.configure("error")
    stopped = False
    for finding in examine(settings):
        level = click.style(f"{finding.level:<5}", fg=COLOURS[finding.level])
        click.echo(f"{level}{finding.subject:<10}{finding.says}", color=colour())
        stopped |= finding.level == "fail"
    raise SystemExit(FAILURE if stopped else 0)


def examine(settings: Settings) -> Iterator[Finding]:
    """Run all checks, slow ones last."""
    yield from software()
    yield from processor(Path("/proc/cpuinfo"))
    yield from cores(settings.compute.threads)
    for address in settings.server.listen:
        yield listener("listen", address)
    if settings.metrics.listen:
        yield listener("metrics", settings.metrics.listen)
    yield from certificate(settings.server.tls_certificate, settings.server.tls_key)
    yield from keys(settings)
    yield from redis(settings.limits)
    yield cache_folder(settings.cache.dir) if settings.cache.enabled else Finding("note", "cache", "off")
    for model in settings.models:
        yield from served(model, settings.compute)


def software() -> Iterator[Finding]:
    """Report the packages' versions, and missing packages."""
    found, missing = [f"python {sys.version.split()[0]}"], []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    yield Finding("ok", "versions", ", ".join(found))
    if missing:
        yield Finding("fail", "versions", f"not installed: {', '.join(missing)}")


def processor(cpuinfo: Path) -> Iterator[Finding]:
    """Report the processor, its instruction sets and missing ones."""
    try:
        fields = dict(_field(line) for line in cpuinfo.read_text().split("\n\n")[0].splitlines() if ":" in line)
    except OSError:
        yield Finding("note", "processor", "unknown: no /proc/cpuinfo")
        return
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    names = [name for flag, name in ISA_FLAGS.items() if flag in flags]
    yield Finding(
        "ok", "processor", f"{fields.get('model name', 'unnamed')}: {', '.join(names) or 'none of AVX2, VNNI, AMX'}"
    )
    if not flags & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}:
        yield Finding("note", "processor", "without VNNI, AMX or Arm's dot products, 8-bit products are slower")
    for variable in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        if os.environ.get(variable):
            yield Finding(
                "warn", "processor", f"{variable}={os.environ[variable]} limits the instruction sets that PyTorch uses"
            )


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def cores(wanted: int) -> Iterator[Finding]:
    """Compare the configured threads with the cores available by affinity and cgroup."""
    from encoder.threads import usable_cores  # noqa: PLC0415

    usable, present = usable_cores(), os.cpu_count() or 1
    yield Finding("ok", "cores", f"{wanted or usable} of {present} would compute")
    if usable < present:
        yield Finding("note", "cores", f"CPU affinity or the cgroup's quota allows {usable} of {present}")
    if wanted > usable:
        yield Finding(
            "warn", "cores", f"compute.threads = {wanted} is more than the {usable} available, which is slower"
        )


def listener(subject: str, address: str) -> Finding:
    """Check that an address can be bound."""
    try:
        check_free(address)
    except (OSError, UnicodeError) as error:
        return Finding("fail", subject, f"{address}: {words_of(error)}")
    return Finding("ok", subject, f"{address} is free")


def cache_folder(folder: Path) -> Finding:
    """Check that the cache's folder, or the folder it would be created in, is writable."""
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Finding("fail", "cache", f"{folder}: {(error.strerror or str(error)).lower()}")
    return Finding("ok", "cache", f"{folder} is writable")


def served(model: ModelSettings, compute: ComputeSettings) -> Iterator[Finding]:
    """Load and warm up a model as the server does."""
    from server.inference import loading  # noqa: PLC0415

    subject = "model"
    try:
        folder = loading.describe_model(model)
        if folder.trunk:
            yield Finding("ok", subject, f"{model.served_name}: a head on {folder.trunk.name}")
            return
        found = loading.open_model(model, folder, compute, Metrics(CollectorRegistry()))
    except StartError as error:
        yield Finding("fail", subject, str(error).removeprefix("model ") + _known_models(model))
        return
    encoder, name = found.runner.encoder, found.name
    licence = found.folder.licence or "no licence declared"
    yield Finding("ok", subject, f"{name}@{found.version}: {encoder.layers} layers of {encoder.hidden}, {licence}")
    yield Finding("ok", "kernels", f"{name}: {encoder.scheme} on {encoder.device}, {encoder.kernels}")
    if slow := advice(name, encoder.scheme, encoder.kernels, encoder.kernels_reason):
        yield Finding("warn", "kernels", slow)
    elif encoder.kernels_reason:
        yield Finding("note", "kernels", f"{name}: faster kernels are not used: {encoder.kernels_reason}")
    yield Finding("ok", "digest", f"{name}: {found.digest}")


def _known_models(model: ModelSettings) -> str:
    """List available models if the requested one does not exist."""
    if "/" in model.path or model.folder.exists() or not model.folder.parent.is_dir():
        return ""
    return "; available: " + (", ".join(sorted(folder.name for folder in _folders(model.folder.parent))) or "none")


def _folders(parent: Path) -> Iterable[Path]:
    return (child for child in parent.iterdir() if (child / "config.json").is_file())
