"""IPython and queueserver profile: RE, devices (bl, mono, sample, …), plans, catalogue, magics.

BEAMLINE_* variables or the file BEAMLINE_CONFIG say which beamline; a simulated one by default.
"""

from bluesky.plan_stubs import mv, mvr
from bluesky.plans import count, grid_scan, list_scan, rel_scan, scan

from beamline.session import open_session

session = open_session()
globals().update(session.namespace())

try:
    shell = get_ipython()
except NameError:
    shell = None
# The worker of bluesky-queueserver has no shell, or an empty stand-in.
if hasattr(shell, "register_magics"):
    from bluesky.magics import BlueskyMagics

    shell.register_magics(BlueskyMagics)
