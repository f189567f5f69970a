"""Makes the plugin's configs findable by ``--config-name`` from any folder.

Hydra looks for plugins in the namespace package ``hydra_plugins``. Every Hydra application in the environment imports
this file, so it imports nothing else.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class MultiAttemptSearchPath(SearchPathPlugin):
    """Appends the plugin's configs, so that an application's own configs of the same name come first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="multi_attempt", path="pkg://verl_ext.config")
