"""The settings: declarations (declared.py), accepted values (kinds.py), reading (loading.py).

A setting has one name in three spellings: the key `poll_interval`, the environment variable `KPOD_POLL_INTERVAL`, the
flag `--poll-interval`. Keys of a group nest in YAML (`collectors: {disk: {interval: 60s}}`) and are joined with
underscores or dashes elsewhere (`KPOD_COLLECTORS_DISK_INTERVAL`). A flag wins over the environment, and the
environment over the file.
"""

from kpod_metrics.settings.declared import DEFAULT_SYSCALLS as DEFAULT_SYSCALLS
from kpod_metrics.settings.declared import ENVIRONMENT_PREFIX as ENVIRONMENT_PREFIX
from kpod_metrics.settings.declared import CollectorSettings as CollectorSettings
from kpod_metrics.settings.declared import Setting as Setting
from kpod_metrics.settings.declared import Settings as Settings
from kpod_metrics.settings.declared import catalogue as catalogue
from kpod_metrics.settings.kinds import duration as duration
from kpod_metrics.settings.loading import load as load
from kpod_metrics.settings.loading import nearest as nearest
from kpod_metrics.settings.loading import shown as shown
