"""mmt: train, shrink, judge and serve multilingual translation models made of Mixture-of-Experts transformers.

Importing this package is all that fairseq needs to know its tasks, models, criterions and optimizers
(`fairseq-train ... --user-dir mmt`). fairseq itself imports only the folders ``tasks`` and ``models`` of a plugin, and
not even those when the package was imported before, hence the explicit imports below.
"""

from mmt import fairseq_compat

fairseq_compat.apply()

from mmt import criterions, models, optim, tasks  # noqa: E402,F401
from mmt.trainer import install_trainer  # noqa: E402

install_trainer()

__version__ = "0.1.0"
