"""mmt: train, score and use multilingual translation models made of Mixture-of-Experts transformers.

Importing this package is all that fairseq needs to know its tasks, models, criterions and optimizers
(`fairseq-train ... --user-dir mmt`). fairseq itself imports only the folders ``tasks`` and ``models`` of a plugin, and
not even those when the package was imported before, hence the explicit imports below.
"""

import sys
from pathlib import Path

__version__ = "0.1.0"

# Why the plugin could not be registered, if this is the command ``mmt``: it says so in one line, and ``mmt doctor``
# says how to mend it. Everything else gets the exception itself.
import_error: Exception | None = None

try:
    from mmt import fairseq_compat

    fairseq_compat.apply()

    from mmt import criterions, models, optim, tasks  # noqa: F401
    from mmt.trainer import install_trainer

    install_trainer()
except Exception as error:
    # Not only ImportError: fairseq 0.12.2, for one, raises ValueError on Python 3.11.
    if Path(sys.argv[0]).name != "mmt":
        raise
    import_error = error
