"""All rules together."""

from typing import Final

from tests.conformance import chat_rules, http_rules, response_rules
from tests.conformance.exchange import Exchange
from tests.conformance.rules import RULES, Rule

MODULES: Final = (http_rules, chat_rules, response_rules)  # importing them adds their rules


def failures(exchange: Exchange) -> list[str]:
    """The rules that an answer breaks."""
    return [rule.text for rule in concerned(exchange) if not rule.holds(exchange)]


def concerned(exchange: Exchange) -> list[Rule]:
    """The rules for its kind."""
    return [rule for rule in RULES if exchange.ask.kind.partition(":")[0] in rule.kinds]
