"""The fleet's gRPC front: passes calls on to replicas as bytes, with metadata, deadline, status and trailers unchanged.

It knows nothing of Ray: a replica is a server with an address.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import grpc

from server.fleet.bulk import split
from server.fleet.calls import PROCESS_DOCUMENTS, charge_of, id_key, place_of
from server.fleet.replicas import Replicas
from server.fleet.upstream import Relayed, broken, forwarded, has_left, is_lost, refuse
from server.rpc.call_gate import GrpcContext

LARGE_BYTES: Final = 256 << 10  # of a request, whose key is then computed in a thread
MOST_DEATHS: Final = 3  # of replicas while they answer a call, which is then suspected of them


class Proxy(grpc.GenericRpcHandler):
    """Handles all methods but health, which the listener answers."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """A method's handler, which takes and gives bytes."""
        method = str(handler_call_details.method)
        if method.startswith("/grpc.health."):
            return None
        if method.startswith("/grpc."):
            return grpc.stream_stream_rpc_method_handler(partial(self._reflect, method))
        if method == PROCESS_DOCUMENTS:
            return grpc.stream_stream_rpc_method_handler(self._process)
        return grpc.unary_stream_rpc_method_handler(partial(self._answer, method))

    async def _answer(self, method: str, request: bytes, relayed: Relayed) -> AsyncGenerator[bytes, None]:
        """Pass on a call of one request; until something was answered, another replica can do it as well."""
        large = len(request) > LARGE_BYTES
        key, tokens = await asyncio.to_thread(place_of, method, request) if large else place_of(method, request)
        context, deaths = relayed.grpc, 0
        while True:
            replica = await self._replicas.choose(key, tokens)
            open_: Any = replica.channel.unary_stream(method)  # of bytes, which the type stubs do not foresee
            call = open_(request, metadata=forwarded(context), timeout=context.time_remaining())
            message = b""
            charged: int | None = 0
            try:
                async for message in call:
                    yield message
            except grpc.aio.AioRpcError as error:
                deaths += is_lost(error)
                if not has_left(error) or deaths == MOST_DEATHS:
                    await refuse(error, context)
                self._replicas.lose(replica)
                if message:
                    raise broken() from None
            else:
                charged = charge_of(method, message)
                return
            finally:
                call.cancel()
                self._replicas.settle(replica, tokens, tokens if charged is None else charged)

    async def _process(self, requests: AsyncIterator[bytes], relayed: Relayed) -> AsyncGenerator[bytes, None]:
        """Answer a stream of documents."""
        async with aclosing(split(self._replicas, requests, relayed)) as responses:
            try:
                async for response in responses:
                    yield response
            except grpc.aio.AioRpcError as error:
                if has_left(error):
                    raise broken() from None
                await refuse(error, relayed.grpc)

    async def _reflect(
        self, method: str, requests: AsyncIterator[bytes], context: GrpcContext
    ) -> AsyncGenerator[bytes, None]:
        """Have any replica say what it serves."""
        replica = await self._replicas.choose(id_key(method.encode()), 0)
        open_: Any = replica.channel.stream_stream(method)
        call = open_(requests, metadata=forwarded(context), timeout=context.time_remaining())
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            await refuse(error, context)
        finally:
            call.cancel()
