"""The reservation of a job with noise: its whole cost for every patient, on disk before any data are read."""

from salus.client.account import Account
from salus.client.checking import cost_of
from salus.client.data.catalogue import Catalogue
from salus.client.ledger.budget import Budget
from salus.common.events import EventSink
from salus.common.job import Job
from salus.privacy.protocol.store import SessionStore


def reserve(
    account: Account, job: Job, budget: Budget, catalogue: Catalogue, store: SessionStore, site: int, events: EventSink
) -> frozenset[str]:
    """Reserve everything that a job may cost, and return its patients.

    Raises:
        LedgerError: the budget is too small, or the ledger is older than what the site has seen of it.
    """
    ledger, plan = account.ledger, account.plan
    patients = catalogue.patients(job.task.dataset)
    # A ledger that was restored from a backup is shorter than the head that this site stores elsewhere.
    ledger.check_holds(site, store.ledger_head(site))
    store.ledger_seen(site, ledger.head())
    ledger.close_finished(but=account.name)
    ledger.merge(catalogue.merges.all())
    reserved = ledger.reserve(account.name, job.task.dataset, patients, plan, job.job.rounds, budget)
    events.emit("reserved", **cost_of(job, plan, budget))
    return reserved
