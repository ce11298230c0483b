"""The served models and their names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ea_jax.adapters.spec import PURPOSES, Purpose
from ea_jax.errors import BadInput
from ea_jax.integrations.adapted_encoder import AdaptedEncoder
from ea_jax.integrations.server.errors import unknown_model
from ea_jax.integrations.server.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class ServedModel:
    """One served adapter.

    Attributes:
        name: Name in `/v1/models`, for instance `text-embedding-3-small`.
        aliases: Other accepted names, for instance `oai-3-small`.
        adapted: The encoder with its adapter and quality part.
        vocabulary: Vocabulary of the target model. If None, token ids cannot be decoded.
        shortened: Whether the adapter was fitted on vectors of fewer dimensions than the target's default.
    """

    name: str
    aliases: tuple[str, ...]
    adapted: AdaptedEncoder
    vocabulary: Vocabulary | None = None
    shortened: bool = False


@dataclass(frozen=True, eq=False)
class Catalog:
    """The served models by name.

    Attributes:
        models: The models, in the order of `/v1/models`.
        by_name: The models by each of their names, in lower case.
        purpose: Purpose of names without `@query` or `@store`.
    """

    models: tuple[ServedModel, ...]
    by_name: Mapping[str, ServedModel]
    purpose: Purpose = "query"

    def find(self, name: str) -> tuple[ServedModel, Purpose]:
        """Find the model and the purpose of a name such as `text-embedding-3-small@store`.

        Raises:
            ApiError: 404 if no model has the name.
        """
        stem, _, suffix = name.rpartition("@")
        for purpose in PURPOSES:
            if suffix == purpose and stem.lower() in self.by_name:
                return self.by_name[stem.lower()], purpose
        if name.lower() not in self.by_name:
            raise unknown_model(name)
        return self.by_name[name.lower()], self.purpose

    def names(self) -> list[str]:
        """List the names for `/v1/models`."""
        return [name for model in self.models for name in (model.name, f"{model.name}@query", f"{model.name}@store")]


def make_catalog(models: Iterable[ServedModel], purpose: Purpose = "query") -> Catalog:
    """Create a catalog. An alias of several models belongs to the first.

    Raises:
        BadInput: Two models have the same name, or there is no model.
    """
    models, by_name = tuple(models), {}
    for model in models:
        if model.name.lower() in by_name:
            raise BadInput(f"Two adapters would be served as {model.name!r}. Name each once.")
        by_name[model.name.lower()] = model
    for model in models:
        for alias in model.aliases:
            by_name.setdefault(alias.lower(), model)
    if not models:
        raise BadInput("There is no adapter to serve.")
    return Catalog(models, by_name, purpose)


def public_names(target: str, aliases: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The name that the target's provider uses for it, and its other names.

    OpenAI's clients call `openai/text-embedding-3-small` by the name `text-embedding-3-small`.
    """
    name = target.rpartition("/")[2]
    return name, tuple(alias for alias in (target, *aliases) if alias.lower() != name.lower())


def model_object(name: str) -> dict[str, object]:
    """Describe a model for `/v1/models`."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "ea_jax"}


def find_listed(catalog: Catalog, name: str) -> dict[str, object]:
    """Describe one model for `/v1/models/NAME`.

    Raises:
        ApiError: 404 if no model has the name.
    """
    catalog.find(name)
    return model_object(name)
