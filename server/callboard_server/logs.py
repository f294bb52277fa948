"""Structured logs, on standard error. No exception text and no secrets: only kinds and places."""

from __future__ import annotations

import logging
import sys

import structlog

from callboard_server.config import ServerSettings


def configure(settings: ServerSettings) -> None:
    """Sets up the log of this process."""
    _configure(settings.log_level, settings.log_format)


def configure_quietly() -> None:
    """Leaves the log to the program that the server is a part of; else shows what goes wrong."""
    if not structlog.is_configured():
        _configure("warning", "console")


def _configure(level_name: str, log_format: str) -> None:
    level = logging.getLevelNamesMapping()[level_name.upper()]
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
