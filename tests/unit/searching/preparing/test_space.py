"""Rules, support and agreements become knobs."""

from __future__ import annotations

import pytest

from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site
from autoquant.errors import PlanError
from autoquant.job import Rule, SpaceRules, find_space_rules, shipped_spaces
from autoquant.searching.preparing.space import BoundSpace, bind_space, check_rules

ALL = (Scheme.INT8, Scheme.INT16, Scheme.FP32)


def site(name: str, kind: OpKind = OpKind.CONV2D, follows: str | None = None) -> Site:
    return Site(name, kind, name, None, None, name, (), (), (1, 4), 0, 0, 0, None, follows)


SITES = (
    site("stem"),
    site("layer1.conv"),
    site("layer1.act", OpKind.ACTIVATION, "layer1.conv"),
    site("layer2.conv"),
    site("head", OpKind.LINEAR),
    site("embed", OpKind.EMBEDDING),
)


def support(item: Site, scheme: Scheme) -> Support:
    if item.kind is OpKind.EMBEDDING:
        return Support.NATIVE if scheme is Scheme.FP32 else Support.UNSUPPORTED
    return Support.EMULATED if scheme is Scheme.INT16 else Support.NATIVE


def bind(rules: SpaceRules, *, real: bool = False) -> BoundSpace:
    agreements = [("layer1.act", "layer1.conv")]
    return bind_space(rules, SITES, agreements, support, real_kernels_only=real)


def schemes(bound: BoundSpace) -> dict[str, list[str]]:
    return {knob.name: [s.value for s in knob.schemes] for knob in bound.space.knobs}


def test_sites_that_agree_are_one_knob_and_the_follower_takes_what_its_leader_may() -> None:
    bound = bind(SpaceRules(schemes=ALL))
    assert bound.space.by_name["layer1.conv"].sites == ("layer1.conv", "layer1.act")
    assert schemes(bound)["layer1.conv"] == ["int8", "int16", "fp32"]


def test_what_the_target_cannot_run_is_not_offered() -> None:
    assert schemes(bind(SpaceRules(schemes=ALL)))["embed"] == ["fp32"]


def test_the_fallback_is_taken_where_nothing_else_is_left() -> None:
    assert schemes(bind(SpaceRules(schemes=(Scheme.INT8,))))["embed"] == ["fp32"]


def test_emulated_schemes_are_dropped_with_a_notice_when_latency_needs_real_kernels() -> None:
    bound = bind(SpaceRules(schemes=ALL), real=True)
    assert schemes(bound)["stem"] == ["int8", "fp32"]
    assert bound.notices[0].startswith("int16 is left out at 4 sites (3 conv2d, 1 linear)")


def test_what_cannot_be_int8_is_named_where_int8_was_wanted() -> None:
    (notice,) = bind(SpaceRules(schemes=ALL)).notices
    assert "no int8 for embedding (embed), which takes fp32" in notice
    pinned = (Rule(path="embed", pin=Scheme.FP32),)
    assert bind(SpaceRules(schemes=ALL, rules=pinned)).notices == ()
    assert bind(SpaceRules(schemes=(Scheme.INT16, Scheme.FP32))).notices == ()


def test_later_rules_override_earlier_ones() -> None:
    rules = SpaceRules(
        schemes=ALL,
        rules=(
            Rule(kind=OpKind.CONV2D, schemes=(Scheme.INT8,)),
            Rule(path="layer2.*", pin=Scheme.FP32),
            Rule(block="layer1", schemes=(Scheme.INT16,)),
        ),
    )
    found = schemes(bind(rules))
    assert found["stem"] == ["int8"]
    assert found["layer2.conv"] == ["fp32"]
    assert found["layer1.conv"] == ["int16"]


def test_blocks_and_groups_make_sites_agree() -> None:
    grouped = bind(SpaceRules(schemes=ALL, groups=(("stem", "layer*.conv"),)))
    assert grouped.space.by_name["stem"].sites == (
        "stem",
        "layer1.conv",
        "layer1.act",
        "layer2.conv",
    )
    blocks = bind(SpaceRules(schemes=ALL, grouping="block"))
    assert blocks.space.by_name["stem"].sites == ("stem", "head", "embed")


def npu(item: Site, scheme: Scheme) -> Support:
    """No floats, and activations in int8 alone."""
    lacks = item.kind is OpKind.ACTIVATION and scheme is Scheme.INT16
    return Support.UNSUPPORTED if lacks or scheme.activation.is_float else Support.NATIVE


def test_a_knob_loses_what_a_follower_can_run_neither_so_nor_in_fp32() -> None:
    rules = SpaceRules(schemes=ALL, fallback=Scheme.INT16)
    agreements = [("layer1.act", "layer1.conv")]
    bound = bind_space(rules, SITES, agreements, npu, real_kernels_only=False)
    assert schemes(bound)["layer1.conv"] == ["int8"]
    assert schemes(bound)["layer2.conv"] == ["int8", "int16"]


def test_a_fallback_that_a_follower_cannot_run_is_refused() -> None:
    rules = SpaceRules(schemes=(Scheme.INT16,), fallback=Scheme.INT16)
    agreements = [("layer1.act", "layer1.conv")]
    with pytest.raises(PlanError, match=r"'layer1\.act' .* int16, which this target does not run"):
        bind_space(rules, SITES, agreements, npu, real_kernels_only=False)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            SpaceRules(schemes=ALL, rules=(Rule(path="layre1.*", pin=Scheme.FP32),)),
            r"space.rules.0 \(path: layre1.\*\) matches no site",
        ),
        (SpaceRules(schemes=ALL, groups=(("nothing*",),)), "'nothing\\*' matches no site"),
        (
            SpaceRules(schemes=ALL, rules=(Rule(path="embed", pin=Scheme.INT8),)),
            "'embed' .* is pinned to int8, which this target does not run",
        ),
        (
            SpaceRules(schemes=ALL, rules=(Rule(kind=OpKind.ACTIVATION, pin=Scheme.FP32),)),
            r"space.rules.0 \(kind: activation\) changes nothing: "
            "'layer1.act' follows 'layer1.conv'",
        ),
    ],
    ids=["rule", "group", "pin", "follower"],
)
def test_rules_that_protect_nothing_or_cannot_hold_are_refused(
    rules: SpaceRules, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        bind(rules)


def test_an_optional_rule_may_match_no_site() -> None:
    rules = (Rule(kind=OpKind.LSTM, pin=Scheme.FP32, optional=True),)
    assert schemes(bind(SpaceRules(schemes=ALL, rules=rules))) == schemes(
        bind(SpaceRules(schemes=ALL))
    )


def test_an_optional_rule_on_followers_alone_is_refused_all_the_same() -> None:
    rules = (Rule(path="*.act", pin=Scheme.FP32, optional=True),)
    with pytest.raises(PlanError, match="changes nothing"):
        bind(SpaceRules(schemes=ALL, rules=rules))


def test_a_rule_on_leaders_and_followers_decides_for_the_leaders() -> None:
    rules = (Rule(block="layer1", pin=Scheme.FP32),)
    assert schemes(bind(SpaceRules(schemes=ALL, rules=rules)))["layer1.conv"] == ["fp32"]


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_shipped_space_fits_a_model_without_embeddings(name: str) -> None:
    check_rules(SpaceRules.model_validate(find_space_rules(name)), SITES[:5])


def test_a_refused_rule_names_the_nearest_sites() -> None:
    rules = SpaceRules(schemes=ALL, rules=(Rule(path="layre1.conv", pin=Scheme.FP32),))
    with pytest.raises(PlanError) as caught:
        bind(rules)
    assert "layer1.conv" in caught.value.hint
