"""The plugin: a meshlet may use what its Meshlet lists under `spec.client`, unless the service's `allow` list leaves it out.

The facts come with the request, so this is two comparisons: it is asked inline, keeps no state and does no I/O. It never
abstains: with this plugin active everything that is not declared is denied. The declaration is checked first and the reason
then speaks of the client's own Meshlet only, so a denial tells nobody which services exist.
"""

from __future__ import annotations

from typing import Final

import attrs

from meshless_core import AuthorizationRequest, AuthorizerSpec, Decision, Verdict, hookimpl

__all__ = ["DeclaredPolicy", "Options", "meshless_register_authorizer"]

_DECLARATION: Final = "policy_declared/declaration"
_ALLOW_LIST: Final = "policy_declared/allow-list"


@attrs.frozen
class Options:
    """Settings of `policy_declared`.

    Attributes:
        require_consent: whether a service without an `allow` list is closed instead of open to all who declare it.
    """

    require_consent: bool = attrs.field(
        default=False,
        metadata={
            "doc": "true or false; true closes services without an allow list, so that nobody can let themselves in by"
            " declaring a use: the service has to consent. false leaves such services open to all who declare them"
        },
    )


class DeclaredPolicy:
    """Decides by declaration and consent; satisfies `InlineAuthorizer`."""

    def __init__(self, options: Options) -> None:
        self._require_consent = options.require_consent

    def authorize_inline(self, request: AuthorizationRequest) -> Decision:
        """Allow what is declared and consented to, deny everything else."""
        source, target = request.source, request.target
        if not request.declared:
            return Decision(
                Verdict.DENY,
                _DECLARATION,
                f"meshlet {source} does not list {target} under spec.client: add it there and apply the Meshlet",
            )
        if request.consent is True:
            return Decision(
                Verdict.ALLOW,
                _ALLOW_LIST,
                f"meshlet {source} lists {target} under spec.client and is on its allow list",
            )
        if request.consent is False:
            return Decision(
                Verdict.DENY,
                _ALLOW_LIST,
                f"service {target} does not allow {source}: add it to spec.server.services[].allow of meshlet {target.owner}",
            )
        if self._require_consent:
            return Decision(
                Verdict.DENY,
                _ALLOW_LIST,
                f"service {target} has given no consent and require_consent is on:"
                f" add {source} to spec.server.services[].allow of meshlet {target.owner}",
            )
        return Decision(
            Verdict.ALLOW, _DECLARATION, f"meshlet {source} lists {target} under spec.client, and {target} has no allow list"
        )


@hookimpl
def meshless_register_authorizer() -> AuthorizerSpec:
    """Register the policy."""
    return AuthorizerSpec(api=1, options=Options, create=DeclaredPolicy)
