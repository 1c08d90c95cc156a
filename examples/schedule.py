"""Scheduled tasks: every few seconds, and by a cron expression.

Run it with ``amqp-rpc serve examples.schedule``, as often as you like: each tick runs once. ``--log-level info`` shows
the server that is the leader.
"""

from __future__ import annotations

from datetime import UTC, datetime

from amqp_rpc import Service, context

service = Service("shop_schedule")


@service.every("2s")
@service.task
def clean_up() -> None:
    """Every two seconds; ``"5m"``, ``"1h30m"`` or ``"1d"`` as well."""
    print("cleaning up", flush=True)


@service.cron("*/5 * * * * *", timezone="Europe/Berlin")
@service.task
def report() -> None:
    """Every five seconds, since the first of six fields is the second; ``"30 2 * * MON-FRI"`` has no seconds."""
    due = datetime.fromtimestamp(context().tick or 0, UTC)
    print("report for", due.strftime("%S"), flush=True)
