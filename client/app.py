"""A site as a Flower `ClientApp`; the simulation and Flower's own engines all call this one object."""

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from salus.client.site import Site
from salus.common.errors import SalusError, describe
from salus.common.packets import Reply, pack, refusal, require_type, unpack_request

SiteOf = Callable[[Context], Site]


def make_client_app(site_of: SiteOf) -> ClientApp:
    """Return the app.

    Args:
        site_of: returns the site that a message is for; a virtual engine has one per node.
    """
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        return Message(pack(*_answer(site_of, message, context)), reply_to=message)

    app.train()(handle)
    app.evaluate()(handle)
    app.query("measure")(handle)
    app.query("answer")(handle)
    app.query("check")(handle)
    app.query("canary")(handle)
    app.query("start")(handle)
    app.query("end")(handle)
    app.query("hello")(handle)
    return app


def _answer(site_of: SiteOf, message: Message, context: Context) -> tuple[Reply, bytes]:
    site = site_of(context)
    try:
        request, blob = unpack_request(message.content)
        require_type(request, message.metadata.message_type)
    except SalusError as problem:
        return refusal(site.site_id, problem, describe(problem)), b""
    return site.handle(request, blob)
