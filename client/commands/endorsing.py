"""`salus client endorse`: a site stands by a package with its own key, after checking everything in it."""

from pathlib import Path
from typing import Annotated

import typer

from salus.common.console import example, out
from salus.common.errors import PackageError


def endorse(
    folder: Annotated[Path, typer.Argument(help="The site's folder.")],
    package: Annotated[
        Path, typer.Argument(help="The folder or the zip of a package; the endorsement is added to it.")
    ],
    kit: Annotated[
        Path | None, typer.Option(help="A kit of the consortium, for a site that has not joined it.")
    ] = None,
) -> None:
    """Check a package, compare its ledger head of this site with the site's own ledger, and sign it with the site's key."""
    from salus.client.config import LEDGER, open_ledger
    from salus.client.ledger.store import Ledger
    from salus.common.clock import SystemClock
    from salus.common.identity import Identity
    from salus.common.kit import SIGNING_KEY
    from salus.common.package.adding import add_files
    from salus.common.package.checking import checked_package
    from salus.common.package.pinning import pinned_key
    from salus.privacy.records.package import evidence_of
    from salus.privacy.records.release import Endorsement, endorsements_of, release_of, seal_endorsement

    clock, identity = SystemClock(), Identity.load(folder / "keys" / SIGNING_KEY)
    with checked_package(package, pinned_key(folder, kit)) as checked:
        evidence = evidence_of(checked)
        release_of(checked, evidence)
        endorsements_of(checked)
        site = checked.roster.id_of(identity.public_key)
        heads = [line.opened(checked.roster) for line in evidence.privacy.heads if line.site == site]
        ledger: Ledger | None = None
        if heads and (folder / LEDGER).exists():
            ledger = open_ledger(folder, clock) if (folder / "site.toml").exists() else Ledger(folder / LEDGER, clock)
            ledger.check_holds(site, heads[0])
        elif heads:
            raise PackageError(
                "The package states a ledger head of this site, which has no ledger.",
                remedy="Restore the site's ledger from a backup.",
            )
        endorsement = Endorsement(package=checked.sha256, site=site, ledger=ledger is not None, at=clock.now())
    add_files(package, {f"endorsements/site-{site}.json": seal_endorsement(endorsement, identity)})
    known = "; its ledger head is in this site's ledger" if ledger else ""
    out.print(f"Site {site} endorses the package{known}: {package}", markup=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command to those of a site."""
    app.command(epilog=example("salus client endorse ./site ./package.zip"))(endorse)
