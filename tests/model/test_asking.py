"""What is asked should be what is not known yet: a wasted question costs the user a pick."""

from __future__ import annotations

import pytest
import torch

from hhchat.model import PreferenceModel
from hhchat.model.asking import LocalAsker
from hhchat.model.preference import PreferenceRole, judged, reply_ids
from hhchat.types import Comparison, Generation, Message

ASK = (Message("user", "why the cat"),)
REPLIES = [
    Generation(t) for t in ("the cat sat", "the dog ran home again and again", "hello", "on")
]


@pytest.fixture
def pm(llama):
    return PreferenceModel(llama, PreferenceRole(llama, 4), dtype=torch.float32)


def features(pm, replies):
    row = judged(pm.model, ASK, [reply_ids(pm.model, r) for r in replies])
    return pm.features([row])[0].double()


def picked(number, chosen, rejected):
    pair = (chosen, rejected)
    return Comparison(ASK, pair, picked=0, preferred=0, strength=4, id=f"{number:04d}")


def test_before_any_pick_the_two_most_different_replies_are_asked_about(pm):
    f = features(pm, REPLIES)
    far = int(torch.cdist(f, f).argmax())
    assert LocalAsker(lambda: pm).choose(ASK, REPLIES) == (far // 4, far % 4)


def test_what_has_been_answered_many_times_is_not_asked_again(pm):
    asker = LocalAsker(lambda: pm)
    first = asker.choose(ASK, REPLIES)
    a, b = (REPLIES[i] for i in first)
    asker.learn([picked(n, a, b) for n in range(40)])
    assert asker.latest == "0039"
    assert asker.choose(ASK, REPLIES) != first


def test_many_chats_at_once_do_not_all_ask_the_same(pm):
    asker = LocalAsker(lambda: pm)
    asked = {asker.choose(ASK, REPLIES) for _ in range(12)}
    assert len(asked) > 1


def test_replies_that_are_nearly_the_same_are_never_compared(pm):
    twins = [Generation("the cat sat."), Generation("The cat sat"), Generation("why, the dog ran")]
    for _ in range(6):
        asker = LocalAsker(lambda: pm)
        assert asker.choose(ASK, twins) in {(0, 2), (1, 2)}
    assert LocalAsker(lambda: pm).choose(ASK, twins[:2]) is None


def test_without_a_preference_model_nothing_is_chosen_and_nothing_breaks():
    asker = LocalAsker(lambda: None)
    asker.learn([picked(1, REPLIES[0], REPLIES[1])])
    assert asker.choose(ASK, REPLIES) is None


def test_a_pick_is_learnt_once(pm):
    asker, again = LocalAsker(lambda: pm), LocalAsker(lambda: pm)
    made = [picked(n, REPLIES[n % 4], REPLIES[(n + 1) % 4]) for n in range(5)]
    asker.learn(made)
    again.learn(made[:3])
    again.learn(made)  # the first three are not new
    assert asker.choose(ASK, REPLIES) == again.choose(ASK, REPLIES)
    assert len(again._differences) == 5
