"""Is the target robust, or was the attack weak?"""

from physadv.audit.audit import Audit, audit
from physadv.audit.case import Case
from physadv.audit.effort import Effort
from physadv.audit.flags import ADVICE, Flag

__all__ = ["ADVICE", "Audit", "Case", "Effort", "Flag", "audit"]
