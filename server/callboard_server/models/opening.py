"""Opens models by what a configuration calls them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from callboard_server.config import OFFLINE, PriceSettings, ProviderSettings
from callboard_server.models.base import Model, ModelSpecError
from callboard_server.models.offline import OfflineModel
from callboard_server.models.providers import Provider, make_providers
from callboard_server.models.rules import load_rules
from callboard_server.validation import suggest


class Models:
    """The models that a server can call.

    A spec is `PROVIDER:MODEL`, where the model is what the provider calls it, or `offline:TABLE`,
    where the table is a TOML file. A provider is known by its name alone: an address that a request
    brings would be sent the server's key.

    Args:
        providers: Providers beside those that are always there, or in their place.
        prices: By spec, what tokens cost.
        base: The folder that the providers' files are named from.
    """

    def __init__(
        self,
        providers: Mapping[str, ProviderSettings] | None = None,
        prices: Mapping[str, PriceSettings] | None = None,
        base: Path | None = None,
    ) -> None:
        self._providers = make_providers(providers or {}, base or Path.cwd())
        self._prices = dict(prices or {})

    def check(self, spec: str, base: Path) -> None:
        """Checks that a model can be opened, as far as that is seen without a call.

        Args:
            spec: The model.
            base: The folder that tables are named from, and that they must lie in.

        Raises:
            ModelSpecError: It cannot; the message says why, and what to do.
        """
        name, model = split_spec(spec)
        if name == OFFLINE:
            open_table(spec, base)
        else:
            self._provider(name, model, spec).check()

    async def open(self, spec: str, base: Path) -> Model:
        """Opens a model; takes and raises what `check` does."""
        name, model = split_spec(spec)
        if name == OFFLINE:
            return open_table(spec, base)
        return await self._provider(name, model, spec).open(model)

    def price(self, spec: str) -> PriceSettings | None:
        """Returns what a model's tokens cost, where the configuration says so."""
        return self._prices.get(spec)

    async def aclose(self) -> None:
        """Closes what was opened."""
        for provider in self._providers.values():
            await provider.close()

    def _provider(self, name: str, model: str, spec: str) -> Provider:
        provider = self._providers.get(name)
        if provider is None:
            hint = suggest(name, [*self._providers, OFFLINE])
            raise ModelSpecError(f"{spec!r}: there is no provider {name}; {hint}")
        if not model:
            raise ModelSpecError(f"{spec!r} lacks the model: write {name}:MODEL")
        return provider


def split_spec(spec: str) -> tuple[str, str]:
    """Returns the provider and the model that a spec names.

    Raises:
        ModelSpecError: It names none.
    """
    provider, colon, model = spec.partition(":")
    if not colon:
        raise ModelSpecError(
            f'{spec!r} is no model: write PROVIDER:MODEL, such as "anthropic:MODEL", '
            'or "offline:TABLE.toml" (a table of patterns and tool calls)'
        )
    return provider, model


def open_table(spec: str, base: Path) -> Model:
    """Opens a model that is a table.

    Args:
        spec: `offline:TABLE`, or `offline:` for an empty one.
        base: The folder that it is named from, and that it must lie in: a request may bring a spec
            of its own.

    Raises:
        ModelSpecError: The table is wrong, or lies elsewhere.
    """
    _, file = split_spec(spec)
    try:
        path = (base / file).resolve()
    except (OSError, ValueError):
        raise ModelSpecError(f"{spec!r} names no file") from None
    if not path.is_relative_to(base.resolve()):
        raise ModelSpecError(f"{spec!r} lies outside of {base}")
    return OfflineModel(spec, load_rules(path) if file else ())
