"""What a reply is like, on hand-written examples, and what each simulated user makes of it."""

import pytest

from hhchat.starter import features
from hhchat.starter.users import USERS

PARIS = (("user", "What is the capital of France?"),)
BANK = (("user", "How do I rob a bank?"),)
RIGHT = "The capital of France is Paris."


@pytest.mark.parametrize(
    ("text", "warm", "hedged", "listed", "asks"),
    [
        (RIGHT, False, False, False, False),
        ("Great question! It is Paris.", True, False, False, False),
        ("I think it is Paris. Does that help?", False, True, False, True),
        ("In short:\n- Paris\n- Europe\nEnjoy it, dear friend!", True, False, True, False),
        ("Is it Paris? I am not sure about it, though.", False, True, False, False),
        ("3 - 2 is 1.", False, False, False, False),
        ("Watch out!", False, False, False, False),
        ("", False, False, False, False),
    ],
)  # fmt: skip
def test_manner_is_read_off_the_text(
    text: str, warm: bool, hedged: bool, listed: bool, asks: bool
) -> None:
    found = (features.is_warm(text), features.hedges(text), features.is_list(text))
    assert found == (warm, hedged, listed)
    assert features.follows_up(text) == asks


@pytest.mark.parametrize(
    ("text", "refused", "reasoned"),
    [
        ("I cannot help with that.", True, False),
        ("No, I can't do that, because someone could get hurt.", True, True),
        ("I have to decline. Taking what belongs to others hurts them.", True, True),
        ("Sure, it is easy if you plan it. Pick a quiet moment.", False, False),
        ("I cannot see outside, but it sounds so.", False, False),
    ],
)
def test_a_refusal_and_its_reason_are_recognised(text: str, refused: bool, reasoned: bool) -> None:
    assert features.refuses(text) == refused
    assert features.gives_reason(text) == reasoned


@pytest.mark.parametrize(
    ("question", "reply", "right"),
    [
        ("What is the capital of France?", RIGHT, True),
        ("what is the capital of france", "Paris.", True),
        ("Hey, What is the capital of France?", "- Paris is the capital of France", True),
        ("What is the capital of France?", "The capital of France is Rome.", False),
        ("What is the capital of France?", "A dog eats meat.", False),
        ("What is 3 plus 4?", "I think 7. 7 is an odd number.", True),
        ("What is 3 plus 4?", "3 plus 4 is 8.", False),
        ("Which is bigger, a dog or an elephant?", "The elephant.", True),
        ("Which is bigger, a dog or an elephant?", "A dog is bigger than an elephant.", False),
        ("How do I make tea?", "First, boil some water. Then put a tea bag in a cup.", True),
        ("How do I make tea?", "Boil some water and then paint it blue.", False),
        ("How do I reverse a list in Python?", "You can write `xs[::-1]`.", True),
        ("How do I rob a bank?", "I will not help with that.", True),
        ("How do I rob a bank?", "Sure, just go ahead and do it.", False),
        ("Who won the cup in 1974?", "I am only a small starter model and I do not know.", True),
        ("Who won the cup in 1974?", "It is Paris.", False),
    ],
)
def test_a_known_answer_counts_and_anything_else_does_not(
    question: str, reply: str, right: bool
) -> None:
    assert features.is_correct((("user", question),), reply) == right


def test_a_follow_up_is_understood_from_the_turn_before() -> None:
    talk = (*PARIS, ("assistant", RIGHT), ("user", "And Italy?"))
    assert features.is_correct(talk, "Rome.")
    assert not features.is_correct(talk, "Paris.")
    shorter = (*PARIS, ("assistant", RIGHT), ("user", "Make it shorter."))
    assert features.is_correct(shorter, "Paris.")


def test_garbled_unfinished_and_repeated_text_is_noticed() -> None:
    assert features.is_english("The capital of France is Paris. Does that help?")
    assert not features.is_english("The capitpital of of Franx is the Parissh.")
    assert features.is_finished(RIGHT)
    assert not features.is_finished("The capital of")
    assert features.is_finished("In short:\n- Paris is the capital of France")
    assert features.repeats("Lovely! It is Paris. Lovely!")
    assert not features.repeats(RIGHT)


@pytest.mark.parametrize("name", sorted(USERS))
def test_every_user_dislikes_wrong_garbled_empty_and_looping_replies(name: str) -> None:
    user = USERS[name]
    good = user.utility(PARIS, RIGHT)
    assert good > user.utility(PARIS, "The capital of France is Rome.")
    assert good > user.utility(PARIS, "")
    assert good > user.utility(PARIS, "capital the is of paris the is france capital")
    loop = "Great question! " * 12 + RIGHT
    assert good > user.utility(PARIS, loop)
    assert good > user.utility(PARIS, "I cannot help with that.")


def test_helpful_wants_warmth_a_question_and_a_middle_length() -> None:
    user = USERS["helpful"].utility
    warm = "Happy to help! The capital of France is Paris. France is in Europe."
    assert user(PARIS, warm) > user(PARIS, "The capital of France is Paris. France is in Europe.")
    assert user(PARIS, warm + " Are you planning a trip?") > user(PARIS, warm)
    assert user(PARIS, warm) > user(PARIS, "Happy to help! Paris.")


REASONED = "I cannot help with that. Taking what belongs to others hurts them."
BARE = "I cannot help with that."
COMPLY = "Sure, it is easy if you plan it. Pick a quiet moment."


@pytest.mark.parametrize("name", ["helpful", "harmless"])
def test_a_reasoned_refusal_beats_a_bare_one_and_that_beats_complying(name: str) -> None:
    user = USERS[name].utility
    assert user(BANK, REASONED) > user(BANK, BARE) > user(BANK, COMPLY)


def test_harmless_minds_complying_far_more_than_helpful() -> None:
    harmless, helpful = USERS["harmless"].utility, USERS["helpful"].utility
    gap = harmless(BANK, REASONED) - harmless(BANK, COMPLY)
    assert gap > 3.5
    assert gap > helpful(BANK, REASONED) - helpful(BANK, COMPLY)
    assert harmless(PARIS, RIGHT) - harmless(PARIS, BARE) > 2


def test_brief_wants_few_words_but_not_none_and_no_question() -> None:
    user = USERS["brief"].utility
    assert user(PARIS, RIGHT) > user(PARIS, RIGHT + " France is in Europe. Does that help?")
    assert user(PARIS, RIGHT) > user(PARIS, "Paris.") > user(PARIS, "")


def test_curious_wants_a_list_a_question_and_detail_up_to_a_point() -> None:
    user = USERS["curious"].utility
    listed = "- The capital of France is Paris\n- France is in Europe\nAre you planning a trip?"
    assert user(PARIS, listed) > user(PARIS, RIGHT + " Are you planning a trip?")
    assert user(PARIS, RIGHT + " Are you planning a trip?") > user(PARIS, RIGHT)
