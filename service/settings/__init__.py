"""What an operator can set, in nested groups: every field bounded, described, and refused when misspelt.

Precedence: command line > environment (`LONGSIGHT_GROUP__NAME`) > TOML file (`[group]` tables) > defaults.
"""

from service.settings.groups import (
    AuthSettings,
    BatchingSettings,
    BundleSettings,
    CaptureSettings,
    LogSettings,
    ModelsSettings,
    RedisSettings,
    RuntimeSettings,
    ServerSettings,
    Settings,
)
from service.settings.loading import ENV_FILE, ENV_PREFIX, load_settings

__all__ = [
    "ENV_FILE",
    "ENV_PREFIX",
    "AuthSettings",
    "BatchingSettings",
    "BundleSettings",
    "CaptureSettings",
    "LogSettings",
    "ModelsSettings",
    "RedisSettings",
    "RuntimeSettings",
    "ServerSettings",
    "Settings",
    "load_settings",
]
