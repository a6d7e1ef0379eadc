"""Who is signed for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.errors import ClusterRefused
from gateway.signer.policy import ALWAYS_DENIED, AllowList, Role, SignRequest, check_request

ALLOWED = AllowList.model_validate(
    {
        "clusters": {
            "perun": {
                "users": ["alice", "gw-tunnel2"],
                "user_pattern": "[a-z0-9_-]+",
                "observer": ["gw-observer"],
                "tunnel": ["gw-tunnel", "gw-tunnel2"],
            },
            "listed": {"users": ["alice"], "user_pattern": None},
        },
        "deny": ["staff"],
    }
)


def ask(
    principal: str, role: Role = "user", cluster: str = "perun", forwarding: bool = False
) -> SignRequest:
    return SignRequest(
        public_key="k", cluster=cluster, role=role, principal=principal, forwarding=forwarding
    )


@pytest.mark.parametrize(
    "request_",
    [
        ask("alice"),
        ask("alice", forwarding=True),
        ask("bob"),  # by pattern
        ask("alice", cluster="listed"),
        ask("gw-observer", "observer"),
        ask("gw-tunnel", "tunnel", forwarding=True),
        ask("gw-tunnel2", "tunnel"),
        ask("gw-tunnel2", "user"),  # listed as both
    ],
)
def test_allowed(request_: SignRequest) -> None:
    check_request(ALLOWED, request_)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (ask("root"), "never"),
        (ask("slurm"), "never"),
        (ask("munge"), "never"),
        (ask("staff"), "never"),
        (ask("alice", cluster="other"), "no such cluster"),
        (ask("bob", cluster="listed"), "not on the allow-list as user"),
        (ask("gw-observer"), "not on the allow-list as user"),  # a pattern is for people
        (ask("gw-tunnel"), "not on the allow-list as user"),
        (ask("alice", "observer"), "as observer"),
        (ask("alice", "tunnel"), "as tunnel"),
        (ask("gw-observer", "observer", forwarding=True), "forwards nothing"),
        (ask("Alice"), "not an account name"),
        (ask("alice\n"), "not an account name"),
        (ask("alice,root"), "not an account name"),
        (ask("-oProxy"), "not an account name"),
    ],
)
def test_refused(request_: SignRequest, why: str) -> None:
    with pytest.raises(ClusterRefused) as caught:
        check_request(ALLOWED, request_)
    assert caught.value.reason == "signer_refused"
    assert why in caught.value.detail


@given(st.sampled_from(sorted(ALWAYS_DENIED)), st.sampled_from(["user", "observer", "tunnel"]))
def test_system_accounts_cannot_be_allowed(name: str, role: Role) -> None:
    rules = {"users": [name], "observer": [name], "tunnel": [name], "user_pattern": ".*"}
    allowed = AllowList.model_validate({"clusters": {"c": rules}})
    with pytest.raises(ClusterRefused):
        check_request(allowed, ask(name, role, cluster="c"))


@pytest.mark.parametrize(
    "rules", [{"user_pattern": "("}, {"users": ["a b"]}, {"users": ["x\n"]}, {"groups": []}]
)
def test_bad_rules_are_refused(rules: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AllowList.model_validate({"clusters": {"c": rules}})


@pytest.mark.parametrize(
    "change", [{"forwarding": 1}, {"role": "admin"}, {"extra": 1}, {"principal": "a" * 33}]
)
def test_bad_requests_are_refused(change: dict[str, object]) -> None:
    good: dict[str, object] = ask("alice").model_dump()
    SignRequest.model_validate(good)
    with pytest.raises(ValidationError):
        SignRequest.model_validate(good | change)
