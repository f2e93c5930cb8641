"""IPython and queueserver profile: RE, devices (bl, mono, sample, …), plans, catalogue, magics.

BEAMLINE_* variables or the file BEAMLINE_CONFIG say which beamline; a simulated one by default.
"""

from beamline.session import open_session

session = open_session()
globals().update(session.namespace())

try:  # the worker of bluesky-queueserver has no IPython shell
    shell = get_ipython()
except NameError:
    shell = None
if shell is not None:
    from bluesky.magics import BlueskyMagics

    shell.register_magics(BlueskyMagics)
