"""ModelService: what is served, and how."""

from octavo.v1 import models_pb2, models_pb2_grpc
from server.errors import InvalidCall
from server.inference.models import Catalogue
from server.limits import Context
from server.v1.replies import model_of

PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


class ModelServicer(models_pb2_grpc.ModelServiceServicer):
    """Reads the catalogue. A page's token is the name after which it begins."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def ListModels(
        self, request: models_pb2.ListModelsRequest, context: Context
    ) -> models_pb2.ListModelsResponse:
        """List by name the served models that the client may use."""
        size = min(request.page_size or PAGE_SIZE, MAX_PAGE_SIZE)
        plan = context.client.plan
        models = sorted((model for model in self._catalogue if plan.allows(model.name)), key=lambda model: model.name)
        if request.page_token and request.page_token not in {model.name for model in models}:
            raise InvalidCall("page_token", "it is not from a reply of this server")
        rest = [model for model in models if model.name > request.page_token]
        return models_pb2.ListModelsResponse(
            models=[model_of(model, model is self._catalogue.default) for model in rest[:size]],
            next_page_token=rest[size - 1].name if len(rest) > size else "",
        )

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Context) -> models_pb2.GetModelResponse:
        """Describe one model."""
        model = self._catalogue.resolve(request.name, context.client)
        return models_pb2.GetModelResponse(model=model_of(model, model is self._catalogue.default))
