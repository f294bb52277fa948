"""Providers: models by name, keys from where the configuration says, one client for all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from callboard_server.config import PriceSettings, ProviderSettings
from callboard_server.models import providers
from callboard_server.models.base import Answer, ModelRequest, ModelSpecError
from callboard_server.models.opening import Models
from standins import anthropic, openai
from standins.http import HttpServer, serving
from standins.replies import Reply
from tests.models.conversations import asking, converse

KINDS = ["anthropic", "openai", "openai-chat"]
SECRET = "sk-very-secret"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def handler(kind: str) -> Any:
    reply = Reply("Hello.")
    make: Callable[..., Any] = anthropic.scripted if kind == "anthropic" else openai.scripted
    return make(lambda body: reply)


def url_of(server: HttpServer, kind: str) -> str:
    return server.url if kind == "anthropic" else f"{server.url}/v1"


async def call(models: Models, spec: str, base: Path) -> Answer:
    model = await models.open(spec, base)
    request: ModelRequest = asking("Hello?")
    return (await converse(model, request))[1]


def problem(models: Models, spec: str, base: Path) -> str:
    with pytest.raises(ModelSpecError) as caught:
        models.check(spec, base)
    return str(caught.value)


class TestSpecs:
    @pytest.mark.parametrize("spec", ["claude", "", "gpt"])
    def test_what_is_none_is_told_how_it_is_written(self, spec: str, tmp_path: Path) -> None:
        assert "is no model: write PROVIDER:MODEL" in problem(Models(), spec, tmp_path)

    def test_a_provider_must_be_there(self, tmp_path: Path) -> None:
        models = Models({"local": ProviderSettings(kind="openai-chat", base_url="http://x/v1")})
        assert problem(models, "lokal:llama", tmp_path).endswith(
            "there is no provider lokal; did you mean local?"
        )
        assert "known are: anthropic, openai, local, offline" in problem(models, "x:y", tmp_path)

    def test_a_model_must_be_named(self, tmp_path: Path) -> None:
        assert "write anthropic:MODEL" in problem(Models(), "anthropic:", tmp_path)

    @pytest.mark.parametrize("file", ["../t.toml", "/etc/passwd", "a\0b"])
    def test_a_table_lies_below_the_configuration(self, file: str, tmp_path: Path) -> None:
        assert "offline:" in problem(Models(), f"offline:{file}", tmp_path)

    def test_prices_are_known_by_spec(self) -> None:
        price = PriceSettings(input=3.0, output=15.0)
        models = Models(prices={"anthropic:x": price})
        assert models.price("anthropic:x") == price
        assert models.price("anthropic:y") is None


class TestKeys:
    @pytest.mark.parametrize(
        ("name", "variable"),
        [("anthropic", "ANTHROPIC_API_KEY"), ("openai", "OPENAI_API_KEY")],
    )
    def test_a_missing_key_is_told_by_its_variable(
        self, name: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = problem(Models(), f"{name}:model", tmp_path)
        assert told.startswith(f"{name} has no key: set the environment variable {variable}")
        monkeypatch.setenv(variable, SECRET)
        Models().check(f"{name}:model", tmp_path)

    def test_the_variable_may_be_another(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        models = Models({"work": ProviderSettings(kind="openai", api_key_env="WORK_KEY")})
        assert "set the environment variable WORK_KEY" in problem(models, "work:m", tmp_path)
        monkeypatch.setenv("WORK_KEY", SECRET)
        models.check("work:m", tmp_path)

    def test_a_file_may_hold_it(self, tmp_path: Path) -> None:
        settings = ProviderSettings(kind="openai", api_key_file="key.txt")
        models = Models({"work": settings}, base=tmp_path)
        assert "api_key_file key.txt cannot be read: No such file" in problem(
            models, "work:m", tmp_path
        )
        file = tmp_path / "key.txt"
        file.write_text(" \n")
        assert "api_key_file key.txt is empty" in problem(models, "work:m", tmp_path)
        file.write_bytes(b"\xff\xfe")
        assert "it is no text" in problem(models, "work:m", tmp_path)
        file.write_text(f"{SECRET}\n")
        models.check("work:m", tmp_path)

    def test_a_server_elsewhere_needs_none(self, tmp_path: Path) -> None:
        settings = ProviderSettings(kind="openai-chat", base_url="http://127.0.0.1:9/v1")
        Models({"local": settings}).check("local:llama3:8b", tmp_path)

    def test_a_missing_package_is_told_with_its_extra(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
        monkeypatch.setattr(providers, "find_spec", lambda name: None)
        told = problem(Models(), "anthropic:m", tmp_path)
        assert told.endswith('pip install "callboard[anthropic]"')


@pytest.mark.parametrize("kind", KINDS)
class TestCalls:
    async def test_the_key_goes_to_the_address_that_is_configured(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LOCAL_KEY", SECRET)
        async with serving(handler(kind)) as server:
            settings = ProviderSettings.model_validate(
                {"kind": kind, "base_url": url_of(server, kind), "api_key_env": "LOCAL_KEY"}
            )
            models = Models({"local": settings})
            model = await models.open("local:llama3:8b", tmp_path)
            assert model.name == "local:llama3:8b"
            answer = await call(models, "local:llama3:8b", tmp_path)
            await models.aclose()
        assert answer.content[0].text.text == "Hello."
        [request] = server.requests
        assert request.headers["authorization"] == f"Bearer {SECRET}"
        assert request.body["model"] == "llama3:8b"

    async def test_a_vendors_key_stays_with_the_vendor(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
        monkeypatch.setenv("OPENAI_API_KEY", SECRET)
        async with serving(handler(kind)) as server:
            settings = ProviderSettings.model_validate(
                {"kind": kind, "base_url": url_of(server, kind)}
            )
            models = Models({"local": settings})
            await call(models, "local:m", tmp_path)
            await models.aclose()
        assert not [r for r in server.requests if SECRET in str(r.headers)]

    async def test_all_models_of_a_provider_share_a_client(self, kind: str, tmp_path: Path) -> None:
        async with serving(handler(kind)) as server:
            settings = ProviderSettings.model_validate(
                {"kind": kind, "base_url": url_of(server, kind)}
            )
            models = Models({"local": settings})
            first = models._providers["local"]
            await call(models, "local:a", tmp_path)
            client = first._client
            await call(models, "local:b", tmp_path)
            assert client is not None and first._client is client
            await models.aclose()
            assert client.is_closed()  # type: ignore[attr-defined]
            # Whoever comes later gets another one.
            await call(models, "local:a", tmp_path)
            await models.aclose()
        assert [request.body["model"] for request in server.requests] == ["a", "b", "a"]
