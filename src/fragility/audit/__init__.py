"""How fragile are the explanations of your own model, on your own images? See `fragility audit --help`."""

from fragility.audit.images import Images as Images
from fragility.audit.run import Audit as Audit
from fragility.audit.run import audit as audit
