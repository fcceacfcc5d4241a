"""A site's check of the list of advertised keys, before it sends a share to any of them."""

from collections.abc import Mapping

from salus.common.errors import ProtectionError
from salus.privacy.masking.messages import Advert
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.signed import check_signed
from salus.privacy.protocol.tables import REMEDY


def check_adverts(adverts: Mapping[int, Advert], own: Advert, session: bytes, me: SiteParty, threshold: int) -> None:
    """Raise ProtectionError, naming the site, unless every advert may be used.

    Args:
        adverts: by site, as the coordinator lists them.
        own: what this site advertised.
        threshold: number of sites that must share, see `Thresholds`.

    Guarantees: all sites are on the roster and still members, there are enough of them, this site's own advert is unchanged,
    no key occurs twice, and every signature is for this session.
    """
    strangers = [site for site in adverts if site not in me.keys]
    if strangers:
        raise ProtectionError(f"Site {strangers[0]} advertised but is not on the roster.", remedy=REMEDY)
    if gone := me.removed & set(adverts):
        raise ProtectionError(
            f"Site {min(gone)} advertised but was removed from the consortium.", remedy="Begin a new attempt."
        )
    if len(adverts) < threshold:
        raise ProtectionError(
            f"Expected adverts of {threshold} sites, got {len(adverts)}.", remedy="Wait for more sites."
        )
    if adverts.get(me.site) != own:
        raise ProtectionError("This site's own advert is missing or changed.", remedy=REMEDY)
    used: set[bytes] = set()
    for site, advert in adverts.items():
        if advert.channel in used or advert.mask in used or advert.channel == advert.mask:
            raise ProtectionError(f"Site {site} advertised a key that another site also advertised.", remedy=REMEDY)
        used |= {advert.channel, advert.mask}
    for site, advert in adverts.items():
        check_signed(
            me.keys[site],
            advert.signature,
            advert.statement(session, site),
            site=site,
            what="advert",
            why=f"it is forged, or site {site} was given another model, job, round, attempt or roster than site {me.site}",
        )
