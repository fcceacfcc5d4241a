"""The privacy part of the model card: what each site's patients have spent, computed from signed transcripts."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from salus.common.estimates import Estimate, Metrics
from salus.common.job import Job
from salus.common.strict import Strict
from salus.privacy.contribution import Kind
from salus.privacy.dp.plan import Plan, plan_of, spent
from salus.privacy.protocol.parameters import thresholds

MAX_REASON = 300
NONE = "no formal privacy: nothing limits what the model reveals about one patient"


class SitePrivacy(Strict):
    """One site's line.

    Args:
        attempts: vectors that it sent for training and evaluation, including those of failed attempts.
        epsilon, delta: privacy loss of one of its patients in this job; None without noise.
    """

    site: int
    name: str
    attempts: int
    epsilon: float | None
    delta: float | None


class PrivacyCard(Strict):
    """The privacy guarantee of a model's patients.

    Args:
        source: ``transcript`` if counted from signed messages, ``plan`` if it is an upper bound from the job.
    """

    job: str
    statement: str
    unit: str
    mode: str
    relation: str
    assumes: str
    promised_epsilon: float | None
    promised_delta: float | None
    noise_multiplier: float | None
    sampling_rate: float | None
    clip_norm_l2: float | None
    source: str
    sites: tuple[SitePrivacy, ...]


class LeftOut(Strict):
    """A site that was not in every sum of the job; as the coordinator recorded it.

    Args:
        rounds: in how many rounds it was missing; the evaluation of the final model is not counted.
        last: the last of them.
        reason: why in that round: the site's own answer, that it did not answer, or why it was not asked.
    """

    site: int
    name: str
    rounds: Annotated[int, Field(ge=1)]
    last: Annotated[int, Field(ge=1)]
    reason: Annotated[str, Field(max_length=MAX_REASON)]


class ModelCard(Strict):
    """The card of a finished model: its privacy guarantee, its metrics, and who was not in every round.

    Args:
        format: version of this format. The first one has no ``left_out``; it is still written if no site is in it, so that older
            versions read the card.
        metrics: of the final model on the sites' validation patients; noised ones with their standard errors.
    """

    format: Literal["salus/card/1", "salus/card/2"] = "salus/card/1"
    job_id: str
    job_sha256: str
    consortium: str
    dataset: str
    metrics: dict[str, Estimate | float]
    privacy: PrivacyCard
    left_out: Annotated[tuple[LeftOut, ...], Field(max_length=10_000)] = ()

    @model_validator(mode="after")
    def _second_format(self) -> Self:
        if bool(self.left_out) != (self.format == "salus/card/2"):
            raise ValueError("expected left_out in a card of the second format only, and there with a site")
        return self

    @model_serializer(mode="wrap")
    def _without_nobody(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = write(self)
        if not self.left_out:
            del found["left_out"]
        return found


def model_card(
    job_id: str,
    job: Job,
    privacy: PrivacyCard,
    metrics: Metrics,
    consortium: str,
    left_out: tuple[LeftOut, ...] = (),
) -> ModelCard:
    """Return the card of a finished model."""
    return ModelCard(
        format="salus/card/2" if left_out else "salus/card/1",
        left_out=left_out,
        job_id=job_id,
        job_sha256=job.digest().hex(),
        consortium=consortium,
        dataset=job.task.dataset,
        metrics=dict(metrics),
        privacy=privacy,
    )


def privacy_card(job: Job, sent: Mapping[int, Mapping[Kind, int]] | None, names: Mapping[int, str]) -> PrivacyCard:
    """Return the card of a job.

    Args:
        sent: for each site, the vectors of each kind that it sent, from a verified transcript; None without a transcript.
        names: names of the roster's sites, by id.
    """
    plan = plan_of(job)
    rows = tuple(
        _row(plan, site, name, None if sent is None else sent.get(site)) for site, name in sorted(names.items())
    )
    privacy = job.privacy
    return PrivacyCard(
        job=job.job.name,
        statement=NONE
        if plan is None
        else f"({privacy.epsilon:g}, {privacy.delta:g})-differential privacy per patient",
        unit=privacy.unit,
        mode=privacy.noise,
        relation="two data sets of a site that differ by adding or removing all images of one patient",
        assumes=_assumes(job, len(names)),
        promised_epsilon=privacy.epsilon if plan else None,
        promised_delta=privacy.delta if plan else None,
        noise_multiplier=plan.noise_multiplier if plan else None,
        sampling_rate=plan.sampling_rate if plan else None,
        clip_norm_l2=privacy.clip_norm_l2 if plan else None,
        source="plan" if sent is None else "transcript",
        sites=rows,
    )


def _row(plan: Plan | None, site: int, name: str, sent: Mapping[Kind, int] | None) -> SitePrivacy:
    if plan is None:
        return SitePrivacy(site=site, name=name, attempts=sum((sent or {}).values()), epsilon=None, delta=None)
    if sent is None:
        return SitePrivacy(site=site, name=name, attempts=plan.attempts, epsilon=plan.epsilon, delta=plan.delta)
    # With local noise a retry resends the same vector at no further cost, so the count may be too high; a site's
    # ledger lets nothing beyond the plan leave.
    value = min(spent(plan, sent["train"] + sent["measure"], sent["evaluate"]), plan.epsilon)
    return SitePrivacy(site=site, name=name, attempts=sum(sent.values()), epsilon=value, delta=plan.delta)


def _assumes(job: Job, sites: int) -> str:
    if not job.privacy.noised:
        return "nothing"
    if job.privacy.noise == "local":
        return "nothing: it holds even if the coordinator and all other sites collude"
    limits = thresholds(sites, noised=True)
    return (
        f"at most {limits.colluders} of {sites} sites collude with the coordinator; {limits.honest} honest sites must add their "
        "noise"
    )
