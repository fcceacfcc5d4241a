"""Where a site works for jobs: a process of its own, here or on a cluster, that the daemon starts, watches and ends.

    daemon     link, dates, hours, stopped jobs; imports no torch, and holds nothing of a job
    worker     `client.site.Site` with everything that it imports; starts when a request comes, ends after a while without one

They exchange frames of bytes (`frames`), over a pair of sockets (`process`) or through files of a shared folder (`slurm`).
Nothing is unpickled. What must survive is on disk before a reply exists, so that either may be killed at any moment.
"""
