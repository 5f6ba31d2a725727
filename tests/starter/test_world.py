"""The starter's world, prompts and corpus: what there is to talk about."""

import re
from random import Random

from hhchat.starter import corpus, features, prompts, style
from hhchat.starter.items import by_topic
from hhchat.starter.resolve import resolve


def test_there_are_at_least_fourteen_topics_to_talk_about() -> None:
    assert len(corpus.TOPICS) >= 14
    assert {p.topic for p in prompts.pool("heldout")} >= set(corpus.TOPICS)
    assert set(by_topic()) <= set(corpus.TOPICS)


def test_there_are_at_least_four_hundred_facts_and_steps() -> None:
    assert corpus.fact_count() >= 400


def test_a_held_out_prompt_is_never_one_the_model_was_trained_on() -> None:
    train, held = prompts.pool("train"), prompts.pool("heldout")
    assert len({p.messages for p in train}) >= 1500
    assert len({p.messages for p in held}) >= 600
    assert not {p.messages for p in train} & {p.messages for p in held}
    assert not {p.text for p in train} & {p.text for p in held}


def test_no_held_out_question_occurs_in_a_slice_of_the_corpus() -> None:
    seen = {text for talk in corpus.corpus(7, 8000) for role, text in talk if role == "user"}
    held = {p.text for p in prompts.pool("heldout") if p.kind != "outside"}
    assert not seen & held


def test_the_pool_has_its_share_of_harmful_outside_and_follow_up_prompts() -> None:
    for split in ("train", "heldout"):
        found = prompts.pool(split)  # type: ignore[arg-type]
        assert 0.13 <= sum(p.kind == "harmful" for p in found) / len(found) <= 0.21
        assert 0.03 <= sum(p.kind == "outside" for p in found) / len(found) <= 0.08
        assert 0.10 <= sum(len(p.messages) > 1 for p in found) / len(found) <= 0.20
        assert all(p.messages[-1] == ("user", p.text) for p in found)


def test_the_same_seed_gives_the_same_corpus_and_the_same_pool() -> None:
    assert list(corpus.corpus(5, 50)) == list(corpus.corpus(5, 50))
    assert list(corpus.corpus(5, 50)) != list(corpus.corpus(6, 50))
    assert prompts.pool("train", 1, 20) != prompts.pool("train", 2, 20)


def test_fact_questions_for_the_forgetting_check_have_answers() -> None:
    facts = prompts.facts()
    assert len(facts) >= 120
    assert all(question and accepted for question, accepted in facts)
    for question, accepted in facts[::7]:
        assert features.is_correct((("user", question),), f"It is {accepted[0]}.")


def test_a_tables_answer_is_graded_right_and_its_wrong_one_wrong() -> None:
    rng = Random(4)
    for held in (False, True):
        for _ in range(600):
            asked, look = corpus.choose(rng, held), style.draw(rng)
            reply = corpus.answer(asked, look, rng)
            want = True if asked.item is None else not look.wrong
            if asked.topic == "refusals":
                want = look.refuse
            messages = (("user", asked.text),)
            assert (resolve(messages) is None) == (asked.item is None), asked.text
            assert features.is_correct(messages, reply) == want, (asked.text, reply)


def test_every_attribute_of_a_reply_really_varies() -> None:
    rng = Random(9)
    for topic in corpus.WEIGHTS:
        drawn = [style.draw(rng) for _ in range(150)]
        texts = [corpus.answer(corpus.choose(rng, topic=topic), look, rng) for look in drawn]
        for test in (features.is_warm, features.follows_up):
            assert 0.25 <= sum(map(test, texts)) / len(texts) <= 0.6, (topic, test)
        if topic not in ("refusals", "outside"):
            assert 0.2 <= sum(map(features.hedges, texts)) / len(texts) <= 0.5, topic
            assert 0.2 <= sum(map(features.is_list, texts)) / len(texts) <= 0.55, topic
        if topic == "refusals":
            assert 0.35 <= sum(map(features.refuses, texts)) / len(texts) <= 0.65


def test_compliance_with_a_harmful_request_never_holds_an_instruction() -> None:
    tools = re.compile(r"\b(gun|knife|wire|chemical|powder|password is|download|crowbar|fuse)\b")
    rng = Random(2)
    for _ in range(300):
        asked = corpus.choose(rng, topic="refusals")
        reply = corpus.answer(asked, style.Style(refuse=False, detail=2), rng)
        assert not tools.search(reply)
