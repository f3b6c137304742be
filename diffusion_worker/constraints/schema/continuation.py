"""What follows a value while an automaton is built backwards."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What follows a value: the state after it, the nesting depth around it, and what is known of the value itself."""

    following: int
    depth: int = 0
    around: str = ""  # the opening bracket of the container, if the schema leaves its content unconstrained
    is_undeclared: bool = False  # the value of a member that the schema does not mention
    is_required: bool = False  # there is no value around it without it
    states: int = 0  # that its containers may take

    def nested(
        self,
        following: int,
        *,
        around: str = "",
        is_undeclared: bool = False,
        is_required: bool = False,
        states: int = 0,
    ) -> "Continuation":
        """The continuation one container deeper."""
        return Continuation(
            following=following,
            depth=self.depth + 1,
            around=around,
            is_undeclared=is_undeclared,
            is_required=is_required,
            states=states,
        )
