"""``beamline validate``: checks of files, in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from beamline.validation.nexus import BothValidators


@click.command(name="validate")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
)
@click.option(
    "--repair",
    is_flag=True,
    help="First repair files that a killed writer has left; the original goes when that is done.",
)
def command(files: tuple[Path, ...], *, repair: bool) -> None:
    """Check NeXus, CXI, frame and journal files, in plain words.

    NeXus files by both validators (pynxtools, nexusformat), under the official and the community's
    definitions, with the default plot and the files that they refer to; CXI files by their layout;
    frame files by their rows; journals by their checksums and event-model's rules.

    Exit status 0 if nothing is wrong, 1 if something is, 2 for unusable arguments.
    """
    from beamline.validation.nexus import BothValidators

    with BothValidators() as validators:
        # A list: all are checked, whatever is wrong with one.
        results = [_validate(path, validators, repair=repair) for path in files]
    if not all(results):
        raise SystemExit(1)


def _validate(given: Path, validators: BothValidators, *, repair: bool) -> bool:
    """Check one file; return whether nothing is wrong."""
    from beamline.core.errors import BeamlineError
    from beamline.validation.check import check_file
    from beamline.validation.repair import repair_file

    path = given
    click.echo(f"{given}")
    if repair:
        try:
            path, done = repair_file(given)
        except (BeamlineError, OSError) as error:
            click.echo(f"  ✗ {error}")
            return False
        for what in done:
            click.echo(f"  ✓ repaired: {what}")
    report = check_file(path, validators)
    click.echo(f"  {report.kind}")
    for good, sentence in report.lines:
        click.echo(f"  {'✓' if good else '✗'} {sentence}")
    return report.passed
