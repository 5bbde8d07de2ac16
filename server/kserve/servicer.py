"""The methods of `inference.GRPCInferenceService`."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from octavo import __version__
from server.errors import CallError, EmptyDocument, Refused
from server.health.drain import Drain
from server.inference.answer import Answer
from server.inference.call import Call, Timings, within
from server.inference.models import Catalogue, ServedModel
from server.inference.service import Job, Service
from server.inference.truncation import truncated
from server.kserve import messages
from server.kserve.outputs import QUERY, TEXT, TOKEN_COUNT, VARIES, Output, outputs_of, tensors_of
from server.kserve.requests import Inference, named_fields, read, reference
from server.kserve.statistics import Counts
from server.limits import Context
from server.status import reason_of
from server.v1.replies import Reply
from server.v1.requests import Limits, calls_of

NAME = "octavo"
EXTENSIONS = ("model_configuration", "model_repository", "schedule_policy", "statistics")
ADVICE = "send fewer texts a request, or use octavo.v1's StreamSegments"
CONFIG_TYPES = {"BYTES": "TYPE_STRING"}  # else TYPE_ and the datatype


class KServeServicer:
    """The methods of the service. Other methods of Triton's are unimplemented: models are loaded at start alone."""

    def __init__(
        self, catalogue: Catalogue, service: Service, limits: Limits, drain: Drain, is_live: Callable[[], bool]
    ) -> None:
        self._catalogue = catalogue
        self._service = service
        self._limits = limits
        self._drain = drain
        self._is_live = is_live
        self._counts: defaultdict[str, Counts] = defaultdict(Counts)  # by model

    async def ServerLive(self, request: Any, context: Context) -> Any:
        """Whether the server works; as `/livez`."""
        return messages.ServerLiveResponse(live=self._is_live())

    async def ServerReady(self, request: Any, context: Context) -> Any:
        """Whether new requests are accepted; as `/readyz`."""
        return messages.ServerReadyResponse(ready=not self._drain.begun)

    async def ModelReady(self, request: Any, context: Context) -> Any:
        """Whether the client may use such a model: what is served is ready."""
        try:
            self._model(request, context)
        except CallError:
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: Any, context: Context) -> Any:
        """Name and version."""
        return messages.ServerMetadataResponse(name=NAME, version=__version__, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: Any, context: Context) -> Any:
        """A model's inputs and outputs, of all tasks that it supports."""
        model = self._model(request, context)
        response = messages.ModelMetadataResponse(name=model.name, versions=[model.version], platform=NAME)
        response.inputs.add(name=TEXT, datatype="BYTES", shape=[VARIES, 1])
        if model.is_cross_encoder:
            response.inputs.add(name=QUERY, datatype="BYTES", shape=[1])
        for output in _outputs(model):
            response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        return response

    async def ModelConfig(self, request: Any, context: Context) -> Any:
        """The same in Triton's words."""
        model = self._model(request, context)
        response = messages.ModelConfigResponse()
        config = response.config
        config.name, config.platform, config.backend = model.name, NAME, NAME
        config.input.add(name=TEXT, data_type="TYPE_STRING", dims=[VARIES, 1])
        config.input.add(name=QUERY, data_type="TYPE_STRING", dims=[1], optional=not model.is_cross_encoder)
        for output in _outputs(model):
            data_type = CONFIG_TYPES.get(output.datatype, f"TYPE_{output.datatype}")
            config.output.add(name=output.name, data_type=data_type, dims=output.shape)
        return response

    async def ModelStatistics(self, request: Any, context: Context) -> Any:
        """What models answered over this protocol; of all that the client may use if it names none."""
        models = [self._model(request, context)] if request.name else self._allowed(context)
        response = messages.ModelStatisticsResponse()
        for model in models:
            counts = self._counts[model.name]
            response.model_stats.add(
                name=model.name,
                version=model.version,
                last_inference=counts.last,
                inference_count=counts.texts,
                execution_count=counts.succeeded,
                inference_stats={
                    "success": {"count": counts.succeeded, "ns": counts.success_time},
                    "fail": {"count": counts.failed, "ns": counts.failure_time},
                },
            )
        return response

    async def RepositoryIndex(self, request: Any, context: Context) -> Any:
        """The served models that the client may use."""
        response = messages.RepositoryIndexResponse()
        for model in self._allowed(context):
            response.models.add(name=model.name, version=model.version, state="READY")
        return response

    async def ModelInfer(self, request: Any, context: Context) -> Any:
        """Run one task over texts, all of each unless the request truncates."""
        with named_fields():
            return await self._infer(request, context)

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        """Answer requests in order, each within the default deadline; one that is at fault does not end the stream."""
        draining = asyncio.ensure_future(self._drain.wait())
        is_first = True
        try:
            while (request := await self._next(requests, draining)) is not None:
                with context.slot.for_now():
                    yield await self._stream_response(request, context, is_first=is_first)
                is_first = False
        finally:
            draining.cancel()

    async def _next(self, requests: AsyncIterator[Any], draining: "asyncio.Future[None]") -> Any:
        """A stream's next request; None at its end.

        Raises:
            Draining: the server is stopping.
        """
        coming = asyncio.ensure_future(anext(requests, None))
        try:
            await asyncio.wait((coming, draining), return_when=asyncio.FIRST_COMPLETED)
            if draining.done():
                raise self._drain.fault
            return coming.result()
        finally:
            coming.cancel()

    async def _stream_response(self, request: Any, context: Context, *, is_first: bool) -> Any:
        deadline = time.monotonic() + self._limits.default_deadline_seconds
        around = replace(context, deadline=min(context.deadline, deadline))
        response = messages.ModelStreamInferResponse()
        try:
            if not is_first:  # which counted when the stream was let in
                await context.slot.spend()
            with named_fields():
                answer = await self._infer(request, around)
            if isinstance(answer, bytes):
                response.infer_response.MergeFromString(answer)
            else:
                response.infer_response.CopyFrom(answer)
            response.infer_response.parameters["triton_final_response"].bool_param = True
        except CallError as error:
            response.error_message = _message_of(error)
            response.infer_response.id = request.id
        return response

    async def _infer(self, request: Any, context: Context) -> Any:
        timings = Timings()
        wanted = read(request, self._catalogue, context.client, self._limits)
        deadline = context.deadline
        if wanted.seconds is not None:
            deadline = min(deadline, time.monotonic() + wanted.seconds)
        around = replace(context, deadline=deadline)
        (call,) = calls_of(wanted.options, [wanted.task], "", self._catalogue, around, path="")
        with self._counts[call.named.name].counting(len(wanted.texts)):
            async with within(deadline):
                return await self._answer(request.id, wanted, call, timings, context)

    async def _answer(self, identifier: str, wanted: Inference, call: Call, timings: Timings, context: Context) -> Any:
        for i, text in enumerate(wanted.texts):
            if not text or text.isspace():  # told before the others are computed
                raise EmptyDocument(f"{TEXT}[{i}]")
        texts = await self._kept(wanted, call)
        reply = Reply(self._service, [call], self._limits, context.slot, [identifier], ADVICE)
        reply.expect(texts)
        jobs = [Job(call, text, f"{TEXT}[{i}]") for i, text in enumerate(texts)]
        answers: list[Answer] = []
        for answer in await self._service.answer(jobs, timings, reply.grow):
            if isinstance(answer, EmptyDocument):
                raise answer
            answers.append(answer)
        return await reply.make(lambda: self._response(identifier, wanted, answers))

    async def _kept(self, wanted: Inference, call: Call) -> Sequence[str]:
        """The texts, truncated to what the model reads at once where the caller wants that."""
        keep = wanted.keep
        if keep is None:
            return wanted.texts
        tokenizer, most = call.model.tokenizer, call.model.runner.encoder.max_tokens - len(call.frame)
        return await self._service.aside(
            call, lambda: [truncated(text, tokenizer, most, keep) for text in wanted.texts]
        )

    def _response(self, identifier: str, wanted: Inference, answers: Sequence[Answer]) -> Any:
        call = answers[0].call
        response = messages.ModelInferResponse(
            model_name=call.named.name, model_version=call.named.version, id=identifier
        )
        response.parameters["fingerprint"].string_param = call.fingerprint
        response.parameters["request_id"].string_param = call.request_id
        results = [answer.of_document()[0] for answer in answers]
        tensors = tensors_of(results, [answer.usage.tokens for answer in answers], wanted.encoding)
        for name in wanted.outputs:
            tensor = tensors[name]
            response.outputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
            response.raw_output_contents.append(tensor.data)
        return response

    def _model(self, request: Any, context: Context) -> ServedModel:
        return self._catalogue.resolve(reference(request.name, request.version), context.client)

    def _allowed(self, context: Context) -> list[ServedModel]:
        models = (model for model in self._catalogue if context.client.plan.allows(model.name))
        return sorted(models, key=lambda model: model.name)


def _outputs(model: ServedModel) -> list[Output]:
    """A model's outputs; the embeddings' shape is that of all dimensions."""
    outputs = [output for outputs in outputs_of(model).values() for output in outputs]
    return [*outputs, Output(TOKEN_COUNT, "INT32", (VARIES,))]


def _message_of(error: CallError) -> str:
    """An error of a stream's request: there are no trailers to say when to come back."""
    _, reason = reason_of(error)
    wait = f"; try again in {error.retry_after:.3g} s" if isinstance(error, Refused) and error.retry_after else ""
    return f"{reason}: {error}{wait}"
