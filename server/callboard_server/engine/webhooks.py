"""Webhooks: telling those outside of a job, by an entry in the outbox in the same commit."""

from __future__ import annotations

import json
from uuid import UUID, uuid5

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from callboard.v1.event_pb2 import Action, JobNotify, Notice
from callboard.v1.lifecycle_pb2 import RunState
from callboard_server.engine import actions
from callboard_server.engine.lifecycle import REQUIRES_ACTION, TERMINAL
from callboard_server.log.notices import notice_of, text_of
from callboard_server.store.base import JobRow, Transaction

_NAMESPACE = UUID("5b0f8a52-6a0b-4c0e-9b39-1d1d1f0e5c7a")


def announce(tx: Transaction, job: JobRow) -> None:
    """Tells a job's webhook how the job stands, which is over or needs an action.

    Each end of a run and each action is told once. Whether somebody else knows of it already is no
    matter here.
    """
    if not job.data.webhook or job.data.notify == JobNotify.JOB_NOTIFY_NONE:
        return
    state, wanted = job.run.data.state, job.data.notify
    if state in TERMINAL:
        _post(tx, job, job.run.data.run_id)
    elif state == REQUIRES_ACTION and wanted == JobNotify.JOB_NOTIFY_OUTCOME_AND_ACTIONS:
        for action in actions.awaited(tx, job.run):
            _post(tx, job, f"{job.run.data.run_id}/{action.action_id}", action)


def _post(tx: Transaction, job: JobRow, what: str, *needed: Action) -> None:
    # It follows from what is told: a run that waits for the same again says nothing new.
    delivery_id = str(uuid5(_NAMESPACE, what))
    notice = notice_of(delivery_id, job.data, job.run.data, needed)
    body = _body(tx, job, notice)
    tx.add_delivery(job.thread.session.tenant, delivery_id, job.data.webhook, body)


def _body(tx: Transaction, job: JobRow, notice: Notice) -> bytes:
    time = Timestamp()
    time.FromNanoseconds(tx.now)
    data = MessageToDict(notice, preserving_proto_field_name=True)
    # Whom the notice wakes is the affair of the thread that launched the job.
    for name in ("assistant_id", "assistant_agent"):
        data.pop(name, None)
    data |= {
        "session_id": job.data.session_id,
        "parent_thread_id": job.data.parent_thread_id,
        "labels": dict(job.data.labels),
        "sequence": job.thread.session.head,
        "text": text_of(notice),
    }
    told = {"type": _type(job), "timestamp": time.ToJsonString(), "data": data}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def _type(job: JobRow) -> str:
    state = RunState.Name(job.run.data.state)
    return f"job.{state.removeprefix('RUN_STATE_').lower()}"
