"""Callboard runs agents as background jobs; this is its client.

Example:
    import asyncio

    import callboard

    async def main():
        async with callboard.AsyncClient() as client:
            job = await client.jobs.launch("researcher", "Find what changed since May.")
            await client.jobs.update(job.job_id, "Only what changed in the tests.")
            async with client.jobs.watch(job_id=job.job_id, until="done") as changes:
                async for job in changes:
                    print(callboard.RunState.Name(job.state), job.progress.message)
            print(callboard.text_of(job.outcome.result))

    asyncio.run(main())

An `AsyncClient` belongs to the event loop in which it is made. `Client` is the same without `async`
and `await`. `callboard.errors` has what calls can raise, and `callboard.v1` all messages of the
contract.
"""

from callboard import webhooks
from callboard._async.client import AsyncClient
from callboard._async.notices import AsyncJobNotice, AsyncNoticeStream
from callboard._async.streams import AsyncEventStream, AsyncJobStream
from callboard._async.supervisors import AsyncSupervisor, AsyncSupervisorTools
from callboard._local import local, local_sync
from callboard._messages import MessageDict, MessageLike, text_of
from callboard._states import TERMINAL_STATES
from callboard._sync.client import Client
from callboard._sync.notices import JobNotice, NoticeStream
from callboard._sync.streams import EventStream, JobStream
from callboard._sync.supervisors import Supervisor, SupervisorTools
from callboard.errors import (
    AlreadyExists,
    CallboardError,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    WaitTimeout,
)
from callboard.kit import ToolAnswer
from callboard.structs import to_dict, to_struct
from callboard.v1.assistant_pb2 import Agent, Assistant
from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import Action, ActionResponse, Event, EventKind, Notice, Permission
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import Outcome, Progress, RunError, RunState, WaitingFor
from callboard.v1.message_pb2 import (
    ContentBlock,
    File,
    Image,
    Message,
    Role,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from callboard.v1.run_pb2 import Delta, Run, StreamEnd
from callboard.v1.server_pb2 import ServerInfo
from callboard.v1.thread_pb2 import Thread, ThreadState

__all__ = [
    "TERMINAL_STATES",
    "Action",
    "ActionResponse",
    "Agent",
    "AlreadyExists",
    "Assistant",
    "AsyncClient",
    "AsyncEventStream",
    "AsyncJobNotice",
    "AsyncJobStream",
    "AsyncNoticeStream",
    "AsyncSupervisor",
    "AsyncSupervisorTools",
    "CallboardError",
    "Cancelled",
    "Client",
    "Conflict",
    "ContentBlock",
    "DeadlineExceeded",
    "Delta",
    "ErrorReason",
    "Event",
    "EventKind",
    "EventStream",
    "FailedPrecondition",
    "FieldViolation",
    "File",
    "Image",
    "Internal",
    "InvalidArgument",
    "Job",
    "JobNotice",
    "JobStream",
    "Message",
    "MessageDict",
    "MessageLike",
    "NotFound",
    "Notice",
    "NoticeStream",
    "OutOfRange",
    "Outcome",
    "Permission",
    "PermissionDenied",
    "Progress",
    "ResourceExhausted",
    "Role",
    "Run",
    "RunError",
    "RunState",
    "ServerInfo",
    "StreamEnd",
    "Supervisor",
    "SupervisorTools",
    "Text",
    "Thread",
    "ThreadState",
    "ToolAnswer",
    "ToolCall",
    "ToolResult",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Usage",
    "WaitTimeout",
    "WaitingFor",
    "local",
    "local_sync",
    "text_of",
    "to_dict",
    "to_struct",
    "webhooks",
]
