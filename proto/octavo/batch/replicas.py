"""An actor pool of Ray Data whose actors each run a server of their own."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from octavo.batch.documents import Document
from octavo.batch.drivers import LOCAL_PATIENCE, NO_RETRY, Ask, probe
from octavo.batch.errors import Unserved
from octavo.batch.manifest import Served
from octavo.batch.parts import Place
from octavo.batch.work import Work
from octavo.cli.local import local_server
from octavo.client import Client, OctavoError

CALLS = 2  # of an actor at a time, so that its server has work while the last documents of a part are computed


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many actors there are, and what each has.

    Attributes:
        least: their minimum number.
        most: their maximum number.
        cpus: cores of each.
        gpus: devices of each.
        model: the model to serve; None: as the machine's settings say.
        max_document_bytes: maximum UTF-8 bytes of a document.
        settings: other settings of the servers, by name.
    """

    least: int
    most: int
    cpus: float
    gpus: float
    model: str | None
    max_document_bytes: int
    settings: tuple[tuple[str, str], ...] = ()

    @contextlib.contextmanager
    def served(self) -> Iterator[Client]:
        """Run a server on this machine and connect to it."""
        settings = {
            "compute.threads": math.ceil(self.cpus),
            "server.max_document_bytes": self.max_document_bytes,
            **dict(self.settings),
        }
        arguments = [each for name, value in settings.items() for each in ("--set", f"{name}={value}")]
        with (
            local_server(self.model, arguments=arguments) as address,
            Client(address, retry=NO_RETRY, max_document_bytes=self.max_document_bytes) as client,
        ):
            yield client

    def probe(self, ask: Ask) -> Served:
        """Run a server on some machine of the cluster and probe its results.

        Raises:
            Unserved: it refuses.
            click.ClickException: it does not start.
        """
        import ray  # noqa: PLC0415 - an extra

        probing = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(_probe)
        try:
            found: Served = ray.get(probing.remote(self, ask))
        except ray.exceptions.RayTaskError as fault:
            raise fault.cause from None
        return found

    def map(self, dataset: Any, actor: "type[Actor]", *arguments: object, batch_size: int) -> Any:
        """Process batches of a dataset with actors, which are made of these replicas and the arguments."""
        from ray.data import ActorPoolStrategy  # noqa: PLC0415

        pool = ActorPoolStrategy(
            min_size=self.least,
            max_size=self.most,
            max_tasks_in_flight_per_actor=CALLS,
            max_concurrent_calls_per_actor=CALLS,
            enable_true_multi_threading=True,
        )
        return dataset.map_batches(
            actor,
            fn_constructor_args=(self, *arguments),
            batch_size=batch_size,
            batch_format="pyarrow",
            compute=pool,
            num_cpus=self.cpus,
            num_gpus=self.gpus,
        )


class Actor:
    """Has a server, which ends when this object or its process does."""

    def __init__(self, replicas: Replicas) -> None:
        self._stack = contextlib.ExitStack()
        self._client = self._stack.enter_context(replicas.served())

    def do(self, work: Work, documents: Iterable[tuple[Place, Document]], ask: Ask) -> None:
        """Process parts. Thread-safe."""
        work.do(iter(documents), [self._client], ask, LOCAL_PATIENCE)


def _probe(replicas: Replicas, ask: Ask) -> Served:
    with replicas.served() as client:
        try:
            return probe(client, ask, LOCAL_PATIENCE)
        except OctavoError as error:
            raise Unserved(client.address, error) from error
