"""The settings: typed, from environment variables, checked together before anything starts.

Every setting is one variable, ``MAILFARM_<NAME>`` or ``MAILFARM_<SERVICE>_<NAME>``, or the same with ``_FILE`` behind
it, which names a file that holds the value (for secrets). All mistakes are reported at once, unknown variables too.
Nothing here reads the environment itself: it is an argument.

``spelling`` says how a value is written, ``store_urls`` how a Redis or Postgres URL is, ``settings`` which settings
there are, ``loading`` reads them, and ``contradictions`` says what cannot be so together.
"""

from .contradictions import ALL, STORES
from .loading import CLIENT_VARIABLES, Variable, load, variable_name, variables
from .settings import (
    GROUPS,
    ApiSettings,
    FarmSettings,
    InboundSettings,
    LiveSettings,
    MxSettings,
    Settings,
    SubmissionSettings,
    SweepSettings,
)
from .spelling import Address, Network

__all__ = [
    "ALL",
    "CLIENT_VARIABLES",
    "GROUPS",
    "STORES",
    "Address",
    "ApiSettings",
    "FarmSettings",
    "InboundSettings",
    "LiveSettings",
    "MxSettings",
    "Network",
    "Settings",
    "SubmissionSettings",
    "SweepSettings",
    "Variable",
    "load",
    "variable_name",
    "variables",
]
