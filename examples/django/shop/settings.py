"""One application, one database, nothing else."""

import os
from urllib.parse import parse_qs, unquote, urlsplit


def database(url):
    """The database of an address as `posthouse` takes it, so that both are told the same."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        # A transaction that reads first and writes then would fail when a relay writes in between.
        options = {"transaction_mode": "IMMEDIATE", "timeout": 30, "init_command": "PRAGMA journal_mode=WAL"}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": parts.path, "OPTIONS": options}
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "HOST": parts.hostname or query.get("host", ""),
        "PORT": parts.port or "",
        "USER": unquote(parts.username or query.get("user", "")),
        "PASSWORD": unquote(parts.password or ""),
    }


SECRET_KEY = os.environ.get("SECRET_KEY", "only for the example")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["shop"]
ROOT_URLCONF = "shop.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": database(os.environ.get("DATABASE_URL", "sqlite:shop.db"))}
# Who may post to the inbox; without one, everybody.
INBOX_TOKEN = os.environ.get("INBOX_TOKEN")
LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"]},
}
