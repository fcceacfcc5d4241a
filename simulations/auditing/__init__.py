"""Audits: attacks on a job through its own code. To add one: a file here, a test, a line below.

An attack is a class without arguments, see `asked.Attack`; its mathematics belong into `privacy/audit`.
"""

from salus.common.registry import Registry

ATTACKS = Registry(
    "attack",
    "salus.attacks",
    {
        "one-run": "salus.simulations.auditing.one_run:OneRun",
        "membership": "salus.simulations.auditing.membership:Membership",
        "inversion": "salus.simulations.auditing.inversion:Inversion",
        "property": "salus.simulations.auditing.properties:Property",
        "imprint": "salus.simulations.auditing.imprint:Imprint",
    },
)
ORDER = ("one-run", "membership", "inversion", "imprint", "property")  # on the page; others follow
