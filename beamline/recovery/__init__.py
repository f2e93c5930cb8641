"""Files and journal of runs that a crash or a full disk has cut off, completed.

.. mermaid::

    flowchart LR
        journal["journal, cut off"] -- documents, and a stop document made up --> writers
        writers --> nxs["NAME.nxs"] & cxi["NAME.cxi"]
        part["NAME.nxs.part"] -- is all of it there? --> nxs
        nxs & cxi -- then --> stop["stop document into the journal"]

The journal gets its stop document last: a recovery that is cut off itself is done again.
"""

from beamline.recovery._cxi import cxi_files
from beamline.recovery._recover import Recovery, recover, unknown_leftovers

__all__ = ["Recovery", "cxi_files", "recover", "unknown_leftovers"]
