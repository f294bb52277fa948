"""Webhooks: what receivers outside are told of jobs, and what keeps it from getting lost."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import callboard
from callboard import AsyncClient
from callboard.v1.server_pb2 import Counts
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError
from callboard_server.config import ConfigError, WebhookSettings, load_config
from callboard_server.engine.outbox import Answer
from callboard_server.engine.posting import HttpDestination, is_public
from callboard_server.log.events import EVENT_BYTES
from callboard_server.log.notices import MOST_BYTES
from callboard_server.models.network import certificates
from callboard_server.store.base import DeliveryRow, Reader
from callboard_server.store.sqlite import SqliteStore
from tests.support.gates import PATIENCE, Gates
from tests.support.parking import open_actions, reply
from tests.support.process import ServerProcess
from tests.support.receiver import CLOSE, HANG, SECRET, Received, Receiver
from tests.support.waiting import until

AGENTS = """
async def echo(ctx):
    return f"done: {await ctx.input()}"
"""


async def echo(ctx: Context) -> str:
    """Says what it was given."""
    return f"done: {await ctx.input()}"


async def broken(ctx: Context) -> None:
    """Fails."""
    raise AgentError("the printer is on fire")


async def asker(ctx: Context) -> str:
    """Asks two things at the same time."""
    answers = await asyncio.gather(ctx.ask("Which colour?"), ctx.ask("Which size?"))
    return " ".join(map(str, answers))


async def boss(ctx: Context) -> str:
    """Launches an echo with a webhook, and waits for it."""
    job = await ctx.jobs.launch("echo", "below", webhook="ops")
    await ctx.jobs.wait(job)
    return "waited"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPS_SECRET", SECRET)


def webhook(receiver: Receiver, **settings: Any) -> dict[str, Any]:
    """The configuration of a webhook that goes to a receiver on this machine."""
    url = f"http://127.0.0.1:{receiver.port}/hook?for=us"
    plain = {"url": url, "secret_env": "OPS_SECRET", "allow_private": True, "retry_pause": 0.01}
    return {**plain, **settings}


@asynccontextmanager
async def serving(
    receiver: Receiver, db: Path, *further: Any, **settings: Any
) -> AsyncIterator[AsyncClient]:
    """A server that has the webhook "ops"."""
    config = {
        "server": {"grace": 0.2},
        "store": {"synchronous": "NORMAL"},
        "webhooks": {"ops": webhook(receiver, **settings)},
    }
    agents = [echo, broken, asker, boss, *further]
    async with callboard.local(agents, db=db, config=config) as client:
        yield client


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


async def counts(client: AsyncClient) -> Counts:
    return (await client.server.info()).counts


async def settled(client: AsyncClient, *, dropped: int = 0) -> None:
    """Waits until nothing is left to be sent."""

    async def is_settled() -> bool:
        found = await counts(client)
        return not found.webhooks_pending and found.webhooks_dropped == dropped

    await until(is_settled)


async def test_the_end_of_a_job_is_told(db: Path) -> None:
    async with Receiver() as receiver, serving(receiver, db) as client:
        job = await client.jobs.launch("echo", "Hi, Zoë.", webhook="ops", labels={"team": "a"})
        received = await receiver.next()
        assert received.line == "POST /hook?for=us HTTP/1.1"
        assert received.headers["host"] == f"127.0.0.1:{receiver.port}"
        assert received.headers["content-type"] == "application/json"
        told, data = received.told, received.data
        over = await client.jobs.get(job.job_id)
        assert told["type"] == "job.succeeded"
        assert told["timestamp"] == over.end_time.ToJsonString()
        assert data["notice_id"] == received.id
        assert data["job_id"] == data["session_id"] == job.job_id
        assert data["run_id"] == job.run_id
        assert (data["agent"], data["task"]) == ("echo", "Hi, Zoë.")
        assert data["state"] == "RUN_STATE_SUCCEEDED"
        assert data["labels"] == {"team": "a"}
        assert data["sequence"] <= over.sequence
        assert data["outcome"]["result"]["content"] == [{"text": {"text": "done: Hi, Zoë."}}]
        assert "Result: done: Hi, Zoë." in data["text"]
        await settled(client)
        assert receiver.is_quiet


async def test_failures_and_cancels_are_told_with_their_reason(db: Path, gates: Gates) -> None:
    async with Receiver() as receiver, serving(receiver, db, *gates.agents) as client:
        await client.jobs.launch("broken", "print", webhook="ops")
        failed = (await receiver.next()).told
        assert failed["type"] == "job.failed"
        assert failed["data"]["outcome"]["error"]["message"] == "the printer is on fire"
        assert "Error: the printer is on fire" in failed["data"]["text"]
        job = await client.jobs.launch("worker", "gate", webhook="ops")
        await gates.entered("gate")
        await client.jobs.cancel(job.job_id)
        assert (await receiver.next()).told["type"] == "job.cancelled"


async def test_what_is_deleted_while_it_runs_is_told_as_cancelled(db: Path, gates: Gates) -> None:
    async with Receiver() as receiver, serving(receiver, db, *gates.agents) as client:
        job = await client.jobs.launch("worker", "gate", webhook="ops")
        await gates.entered("gate")
        await client.threads.delete(job.job_id)
        assert (await receiver.next()).told["type"] == "job.cancelled"


async def test_each_action_is_told_once_and_then_the_end(db: Path) -> None:
    async with Receiver() as receiver, serving(receiver, db) as client:
        job = await client.jobs.launch("asker", "order", webhook="ops")
        asked = [await receiver.next(), await receiver.next()]
        assert {each.told["type"] for each in asked} == {"job.requires_action"}
        questions = [action["question"] for each in asked for action in each.data["actions"]]
        assert sorted(questions) == ["Which colour?", "Which size?"]
        # The run waits again, for what is left.
        run = await client.runs.get(job.run_id)
        for answer in ("red", "XL"):
            action, *_ = await open_actions(client, run)
            await client.runs.respond(action.thread_id, [reply(action, answer)])
        assert (await receiver.next()).told["type"] == "job.succeeded"
        await settled(client)
        assert receiver.is_quiet


async def test_what_notify_leaves_out_is_not_told(db: Path) -> None:
    async with Receiver() as receiver, serving(receiver, db) as client:
        silent = await client.jobs.launch("echo", "none", webhook="ops", notify="none")
        await client.jobs.wait([silent.job_id], timeout=PATIENCE)
        job = await client.jobs.launch("asker", "order", webhook="ops", notify="outcome")
        run = await client.runs.get(job.run_id)
        actions = await open_actions(client, run)
        await client.runs.respond(run.thread_id, [reply(each, "x") for each in actions])
        assert (await receiver.next()).data["job_id"] == job.job_id
        # Nor does one that names no webhook tell anybody.
        await client.jobs.wait([(await client.jobs.launch("echo", "x")).job_id], timeout=PATIENCE)
        await settled(client)
        assert receiver.is_quiet


async def test_it_is_told_although_the_parent_waits_for_the_job(db: Path) -> None:
    async with Receiver() as receiver, serving(receiver, db) as client:
        run = await client.runs.create("boss", "go")
        data = (await receiver.next()).data
        assert data["parent_thread_id"] == run.thread_id
        assert data["parent_run_id"] == run.run_id
        assert data["task"] == "below"


async def test_a_redirected_job_is_told_of_when_its_new_run_is_over(db: Path, gates: Gates) -> None:
    async with Receiver() as receiver, serving(receiver, db, *gates.agents) as client:
        job = await client.jobs.launch("worker", "first", webhook="ops")
        await gates.entered("first")
        gates.open("second")
        updated = await client.jobs.update(job.job_id, "second")
        data = (await receiver.next()).data
        assert (data["run_id"], data["state"]) == (updated.run_id, "RUN_STATE_SUCCEEDED")
        await settled(client)
        assert receiver.is_quiet


async def test_of_a_result_that_is_as_long_as_can_be_the_beginning_is_told(db: Path) -> None:
    async def wordy(ctx: Context) -> str:
        return "x" * (EVENT_BYTES - 1_000)

    async with Receiver() as receiver, serving(receiver, db, wordy) as client:
        job = await client.jobs.launch("wordy", "t" * 1_000_000, webhook="ops")
        data = (await receiver.next()).data
        assert (data["job_id"], data["state"]) == (job.job_id, "RUN_STATE_SUCCEEDED")
        assert data["cut"] and data["text"].endswith("This was cut; the job itself has the whole.")
        assert len(json.dumps(data)) < 2 * MOST_BYTES
        await settled(client)


async def test_an_unknown_webhook_is_refused_before_anything_is_written(db: Path) -> None:
    async with Receiver() as receiver, serving(receiver, db) as client:
        with pytest.raises(callboard.InvalidArgument, match="did you mean ops") as caught:
            await client.jobs.launch("echo", "x", webhook="opps")
        assert [each.field for each in caught.value.field_violations] == ["webhook"]
        with pytest.raises(callboard.InvalidArgument, match="known are: ops"):
            await client.jobs.launch("echo", "x", webhook="https://example.com")
        assert (await counts(client)).threads == 0


@pytest.mark.parametrize(
    "answers",
    [
        (500, 503, 599),
        (429, "429 X\r\nretry-after: 0", 408),
        (CLOSE, CLOSE),
    ],
)
async def test_what_may_pass_is_tried_again_with_the_same_id(
    db: Path, answers: Sequence[int | str]
) -> None:
    async with Receiver(*answers) as receiver, serving(receiver, db) as client:
        await client.jobs.launch("echo", "x", webhook="ops")
        received = [await receiver.next() for _ in range(len(answers) + 1)]
        assert len({each.id for each in received}) == 1
        assert len({each.body for each in received}) == 1
        assert all(each.told for each in received)
        await settled(client)
        assert receiver.is_quiet


async def test_a_receiver_that_does_not_answer_is_tried_again(db: Path) -> None:
    async with Receiver(HANG) as receiver, serving(receiver, db, timeout=0.1) as client:
        await client.jobs.launch("echo", "x", webhook="ops")
        first, second = await receiver.next(), await receiver.next()
        assert first.id == second.id
        await settled(client)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
async def test_what_is_refused_for_good_is_dropped(db: Path, status: int) -> None:
    async with Receiver(status) as receiver, serving(receiver, db) as client:
        await client.jobs.launch("echo", "x", webhook="ops")
        refused = await receiver.next()
        await settled(client, dropped=1)
        await client.jobs.launch("echo", "y", webhook="ops")
        assert (await receiver.next()).id != refused.id
        await settled(client, dropped=1)
        assert receiver.is_quiet


async def test_redirects_are_not_followed(db: Path) -> None:
    async with Receiver() as goal:
        away = f"307 X\r\nlocation: http://127.0.0.1:{goal.port}/"
        async with Receiver(away) as receiver, serving(receiver, db) as client:
            await client.jobs.launch("echo", "x", webhook="ops")
            await receiver.next()
            await settled(client, dropped=1)
        assert goal.connections == 0


@pytest.mark.parametrize("bound", [{"max_attempts": 3}, {"give_up_after": 0.001}])
async def test_in_the_end_it_is_given_up(db: Path, bound: dict[str, float]) -> None:
    async with Receiver(*[500] * 9) as receiver, serving(receiver, db, **bound) as client:
        await client.jobs.launch("echo", "x", webhook="ops")
        await settled(client, dropped=1)
        assert receiver.connections == bound.get("max_attempts", 1)


async def test_only_so_many_are_sent_at_once(db: Path) -> None:
    async with Receiver(*[HANG] * 9) as receiver, serving(receiver, db, concurrency=2) as client:
        jobs = [await client.jobs.launch("echo", str(n), webhook="ops") for n in range(6)]
        await client.jobs.wait([job.job_id for job in jobs], timeout=PATIENCE)
        received = [await receiver.next(), await receiver.next()]
        assert (await counts(client)).webhooks_pending == 6
        receiver.release()
        received += [await receiver.next() for _ in range(4)]
        assert {each.data["job_id"] for each in received} == {job.job_id for job in jobs}
        await settled(client)
        assert receiver.most_at_once <= 2


async def test_what_was_taken_while_the_next_were_looked_up_is_not_sent_again(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, found_both, go_on = SqliteStore.read, asyncio.Event(), asyncio.Event()

    async def read_slowly(store: SqliteStore, query: Callable[[Reader], Any]) -> Any:
        found = await read(store, query)
        if isinstance(found, list) and len(found) == 2 and isinstance(found[0], DeliveryRow):
            found_both.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(SqliteStore, "read", read_slowly)
    async with Receiver(HANG) as receiver, serving(receiver, db, concurrency=2) as client:
        first = await client.jobs.launch("echo", "1", webhook="ops")
        received = [await receiver.next()]
        second = await client.jobs.launch("echo", "2", webhook="ops")
        async with asyncio.timeout(PATIENCE):
            await found_both.wait()
        receiver.release()

        async def is_taken() -> bool:
            return (await counts(client)).webhooks_pending == 1

        await until(is_taken)
        go_on.set()
        received.append(await receiver.next())
        await settled(client)
        assert receiver.is_quiet
    assert [each.data["job_id"] for each in received] == [first.job_id, second.job_id]


async def test_private_addresses_are_refused_without_a_connection(db: Path) -> None:
    async with Receiver() as receiver:
        url = f"https://localhost:{receiver.port}/"
        closed = {"url": url, "allow_private": False, "max_attempts": 3}
        async with serving(receiver, db, **closed) as client:
            await client.jobs.launch("echo", "x", webhook="ops")
            await settled(client, dropped=1)
        assert receiver.connections == 0


async def test_one_private_address_among_public_ones_is_enough_to_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No name that resolves so can be counted on.
    async def resolve(*_: object, **__: object) -> list[Any]:
        return [(0, 0, 0, "", (address, 0)) for address in ("93.184.216.34", "10.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    settings = WebhookSettings(url="https://example.com", secret_env="OPS_SECRET")
    destination = HttpDestination("ops", settings, SECRET)
    attempt = await destination.post("an-id", b"{}")
    assert attempt.answer is Answer.FAILED
    assert "its address is private" in attempt.problem
    await destination.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for "localhost", with its key, that nobody knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path = tmp_path / "localhost.pem"
    secret = key.private_bytes(*pem, serialization.NoEncryption())
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_certificates_are_verified_for_the_name(
    db: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool, host: str
) -> None:
    if is_known:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    certificates.cache_clear()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with Receiver(tls=tls) as receiver:
        url = f"https://{host}:{receiver.port}/"
        async with serving(receiver, db, url=url, max_attempts=2) as client:
            await client.jobs.launch("echo", "x", webhook="ops")
            if is_known and host == "localhost":
                assert (await receiver.next()).headers["host"] == f"localhost:{receiver.port}"
            else:
                await settled(client, dropped=1)
                assert receiver.is_quiet
    certificates.cache_clear()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fe80::1%1", False),
        ("fd00:ec2::254", False),
        ("ff0e::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) == public


@pytest.mark.parametrize("missed", ["commit", "note"])
async def test_kill_9_loses_none(tmp_path: Path, missed: str) -> None:
    """Killed before it was sent, or before it was noted that it was."""
    receiver = Receiver(*[HANG] if missed == "note" else [])
    await receiver.listen()
    if missed == "commit":
        await receiver.close()
    (tmp_path / "agents.py").write_text(AGENTS)
    config = tmp_path / "callboard.toml"
    table = {"agents.echo": {"entrypoint": "agents.py:echo"}, "webhooks.ops": webhook(receiver)}
    config.write_text("\n".join(_toml(name, keys) for name, keys in table.items()))
    server = ServerProcess(config, tmp_path / "jobs.db", {"OPS_SECRET": SECRET})
    try:
        await server.start()
        async with AsyncClient(server.address) as client:
            job = await client.jobs.launch("echo", "x", webhook="ops")
            await client.jobs.wait([job.job_id], timeout=PATIENCE)
            before = [await receiver.next()] if missed == "note" else []
        await server.kill()
        if missed == "commit":
            await receiver.listen()
        await server.start()
        again = await receiver.next()
        assert again.data["job_id"] == job.job_id
        assert all(_is_same(each, again) for each in before)
        async with AsyncClient(server.address) as client:
            await settled(client)
        assert receiver.is_quiet
    finally:
        await server.clean_up()
        await receiver.close()
    assert SECRET not in server.errors and "for=us" not in server.errors


def _is_same(one: Received, other: Received) -> bool:
    return (one.id, one.body) == (other.id, other.body)


def _toml(name: str, keys: dict[str, Any]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"url": "http://example.com"}, "url must begin with https://; http:// goes with"),
        ({"url": "ftp://example.com"}, "url must begin with https:// and hold no password"),
        ({"url": "https://me:pass@example.com"}, "hold no password"),
        ({"secret_env": None}, "needs its secret from secret_env or secret_file"),
        ({"secret_file": "x"}, "needs its secret from secret_env or secret_file"),
        ({"secret": "x"}, "webhooks.ops.secret: is not known; did you mean secret_"),
    ],
)
def test_what_is_wrong_with_a_webhook_is_said(
    tmp_path: Path, keys: dict[str, Any], problem: str
) -> None:
    plain = {"url": "https://example.com", "secret_env": "OPS_SECRET"}
    keys = {key: value for key, value in {**plain, **keys}.items() if value is not None}
    (tmp_path / "callboard.toml").write_text(_toml("webhooks.ops", keys))
    with pytest.raises(ConfigError, match=problem):
        load_config(tmp_path / "callboard.toml")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"secret_env": "NO_SUCH"}, "webhooks.ops.secret_env: .* NO_SUCH is not set"),
        ({"secret_env": "WEAK"}, "webhooks.ops: what .* WEAK holds is none: a secret is whsec_"),
        ({"secret_file": "none.txt"}, "webhooks.ops.secret_file: none.txt cannot be read: No such"),
        ({"secret_file": "weak.txt"}, "webhooks.ops: what weak.txt holds is none"),
    ],
)
async def test_a_server_without_the_secret_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, str], problem: str
) -> None:
    monkeypatch.setenv("WEAK", "hunter2")
    (tmp_path / "weak.txt").write_text("hunter2")
    path = tmp_path / "callboard.toml"
    path.write_text(_toml("webhooks.ops", {"url": "https://example.com", **keys}))
    with pytest.raises(ConfigError, match=problem) as caught:
        async with callboard.local([echo], db=tmp_path / "jobs.db", config=path):
            pass
    assert "hunter2" not in str(caught.value)
