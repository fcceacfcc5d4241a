"""Attributes by which a model is evaluated in groups of patients. Each is one file here with a class that fulfils `Attribute`.

To add one: that file, one test, and one line below; a site adds its own through the entry-point group ``salus.subgroups``.
"""

from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.registry import Registry
from salus.common.subgroups.base import Groups

SUBGROUPS = Registry(
    "attribute of subgroups",
    "salus.subgroups",
    {
        "age": "salus.common.subgroups.age:Age",
        "sex": "salus.common.subgroups.sex:Sex",
        "site": "salus.common.subgroups.site:Site",
        "vendor": "salus.common.subgroups.vendor:Vendor",
    },
)


def groups_of(job: Job) -> Groups:
    """Return the groups by which a job evaluates its model; raises JobError for an unknown attribute."""
    return Groups({name: SUBGROUPS.get(name, error=JobError)(job.evaluation) for name in job.evaluation.subgroups})
