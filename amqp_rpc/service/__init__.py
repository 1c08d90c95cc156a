"""Services: functions with their names, signatures, retries, subscriptions and schedules, as users declare them.

Importing a service opens no connection and starts no thread: `server` runs the functions. It imports `message` alone.
"""
