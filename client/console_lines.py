"""What the site's daemon says on its console: the events that its operator should see at once."""

from salus.common.events import Event


def console_line(event: Event) -> str:
    """Return the console line of an event, or an empty string if it belongs in the log only."""
    fields = event.fields
    match event.kind:
        case "data-trouble":
            return f"Data set {fields['dataset']!r}: {fields['text']}"
        case "data-mended":
            return f"Data set {fields['dataset']!r} can be read again."
        case "reserved":
            share = float(str(fields["epsilon"])) / float(str(fields["budget_epsilon"]))
            return (
                f"Accepted {fields['job']!r}: it reserves epsilon {fields['epsilon']:.3g} of the {fields['budget_epsilon']:g} "
                f"that each patient of {fields['dataset']!r} may spend in {fields['period_days']} days ({share:.0%})."
            )
        case "job-accepted" if fields.get("validation_patients") == 0:
            return (
                f"{fields['job']!r}: no patient validates here, so this site trains, and adds nothing to the job's metrics. "
                "See docs/data.md, Which patients train and which validate."
            )
        case "canary-failed":
            return f"A job was tried out, {fields['job']!r}, and would receive nothing from this site's data: {fields['text']}"
        case "canary":
            return f"A job was tried out, {fields['job']!r}: it would receive this site's part."
        case "job-aborted":
            return f"The coordinator ended {fields['job']!r} for good; what was reserved for it and never sent is given back."
        case "refused":
            return f"Refused: {fields['text']}"
        case "worker-ended":
            return f"The process for work has ended. {fields['text']}"
        case _:
            return ""
