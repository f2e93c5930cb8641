"""``python -m beamline`` is the ``beamline`` command."""

from beamline.cli import main

if __name__ == "__main__":
    main()
