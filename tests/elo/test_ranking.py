"""Which picks are games between which versions, and what `hhchat elo` says about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

import pytest

from hhchat.ranking import Player, Ranking, rank_games
from hhchat.store import Store
from hhchat.types import BadInput, Comparison, Generation, Message, Sampling

Run = Callable[..., Any]
BASE = "starter@1"
NUMBERS = count()  # no two replies are alike: an identical pair teaches nothing


def reply(snapshot: str | None = "base", base: str = BASE, **more: Any) -> Generation:
    more.setdefault("sampling", Sampling())
    return Generation(f"reply {next(NUMBERS)}", snapshot=snapshot, base=base, **more)


def game(
    better: Generation | str, worse: Generation | str, *, swapped: bool = False, **more: Any
) -> Comparison:
    """A pick of `better`, stored second when `swapped`."""
    pair = [reply(g) if isinstance(g, str) else g for g in (better, worse)]
    picked = 1 if swapped else 0
    return Comparison(
        messages=(Message("user", f"question {next(NUMBERS)}"),),
        replies=(pair[1], pair[0]) if swapped else (pair[0], pair[1]),
        picked=picked,
        preferred=more.pop("preferred", picked),
        outcome="right" if swapped else "left",
        **more,
    )


def rank(games: Iterable[Comparison], **how: Any) -> Ranking:
    return rank_games(((game, 1) for game in games), **how)


def test_versions_are_ranked_by_the_preferred_reply() -> None:
    games = [game("s1", "base", swapped=i % 2 == 0) for i in range(60)]
    games += [game("base", "s1", swapped=i % 2 == 0) for i in range(20)]
    ranking = rank(games)
    [group] = ranking.groups
    assert group.anchor == "base"
    assert group.rating("s1").elo == pytest.approx(190.8, abs=0.1)
    assert (group.rating("s1").wins, ranking.games) == (60, 80)


def test_the_worse_reply_of_a_redteam_pick_loses() -> None:
    pick = game("s1", "base", mode="redteam-worst", preferred=1)
    [group] = rank([pick]).groups
    assert group.ratings[0].player == "base"


def test_what_is_no_game_is_left_out() -> None:
    human = reply(None, source="human")
    edited = reply("s1", source="edited")
    kept = game("s1", "base")
    left_out = [
        game(human, "base", source="human"),
        game(edited, "base", source="edited"),
        game(human, "base"),
        game(edited, "base"),
        game("s1", "base", source="imported"),
        game(reply(None), "base"),
        game("s1", "s1"),
        game("s1", "base", preferred=None),
    ]
    ranking = rank([kept, *left_out])
    assert (ranking.games, ranking.alike) == (1, 1)


def test_whose_picks_and_which_mode() -> None:
    games = [game("s1", "base"), game("base", "s1", source="simulated")]
    games.append(game("base", "s1", mode="redteam-best"))
    assert rank(games).games == 3
    assert rank(games, picks="mine").games == 2
    assert rank(games, picks="simulated").groups[0].rating("base").wins == 1
    assert rank(games, mode="helpful").modes == {"helpful": 2}
    assert rank(games, mode="nothing").groups == ()


def test_other_settings_make_another_version() -> None:
    cold = Sampling(temperature=0.7)
    games = [
        game("s1", "base"),
        game(reply("s1", sampling=cold), reply(sampling=cold)),
        game(reply("s1", sampling=Sampling(best_of=4)), "s1"),
    ]
    ranking = rank(games)
    assert len(ranking.groups) == 2, "Elo was pooled over temperatures"
    assert set(ranking.players) == {"s1", "base", "s1 T=0.7", "base T=0.7", "s1 best-of-4"}
    greedy = [Sampling(0.0, 0.5), Sampling(0.0, 1.0)]
    assert rank([game(reply("s1", sampling=s), reply(sampling=s)) for s in greedy]).games == 2
    assert len(rank([game(reply("s1", sampling=s), reply(sampling=s)) for s in greedy]).groups) == 1


def test_models_of_servers_and_other_bases_have_names() -> None:
    llama, qwen = "server:127.0.0.1:1/llama", "server:127.0.0.1:1/qwen"
    games = [
        game(reply("remote", llama), reply("remote:qwen", qwen)),
        game(reply("remote", qwen), reply("remote", llama)),
        game(reply("base", "big@2"), reply("base", BASE)),
    ]
    ranking = rank(games)
    assert set(ranking.players) == {llama, qwen, "base of big@2", f"base of {BASE}"}
    assert ranking.players[qwen] == Player("remote", qwen)


def test_the_anchor() -> None:
    games = [game("s1", "base"), game("s2", "s1"), game("s1", "s2")]
    assert rank(games).groups[0].anchor == "base"
    assert rank(games, anchor="s2").groups[0].anchor == "s2"
    assert rank(games[1:]).groups[0].anchor == "s1"
    with pytest.raises(BadInput, match="several"):
        rank(games, anchor="s")
    with pytest.raises(BadInput, match="no game"):
        rank(games, anchor="bsae")


# -- the command


@pytest.fixture
def store(home: Any) -> Iterator[Store]:
    from hhchat.paths import database, ensure

    ensure(home)
    with Store(database()) as store:
        yield store


def put(store: Store, *games: Comparison) -> None:
    with store.writing():
        for one in games:
            store.record(one)


def test_elo_without_games(run: Run, store: Store) -> None:
    assert "No picks between two different versions" in run("elo").ok().out
    [told] = run("elo", "--json").ok().lines
    assert told == {"games": 0, "alike": 0, "modes": {}, "groups": []}


def test_elo_of_the_record(run: Run, store: Store) -> None:
    put(store, *[game("s1", "base") for _ in range(60)], *[game("base", "s1") for _ in range(20)])
    put(store, game("s1", "base", strength=1), game("base", "s1", purpose="active"))
    out = run("elo").ok().out
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["version", "Elo"]
    assert lines[1].split() == ["s1", "+191", "+103", "to", "+279", "75%", "80", "60"]
    assert lines[2].split() == ["base", "0", "anchor", "-", "80", "20"]
    assert "The data supports this order." in out
    [told] = run("elo", "--json").ok().lines
    [group] = told["groups"]
    assert (told["games"], group["anchor"], group["supported"]) == (80, "base", [["s1", "base"]])
    assert set(group["ratings"][0]) == {
        *("version", "snapshot", "base", "best_of", "elo", "low", "high", "games", "wins"),
        "win_rate",
    }
    assert group["ratings"][0]["win_rate"] == pytest.approx(0.75)


def test_counting_in_the_database_ranks_as_reading_every_pick_does(store: Store) -> None:
    cold = Sampling(temperature=0.7)
    put(
        store,
        *[game("s1", "base", swapped=i % 2 == 0) for i in range(9)],
        *[game("base", "s1", swapped=i % 3 == 0, mode="redteam-best") for i in range(4)],
        game(reply("s1", sampling=cold), reply("base", sampling=None)),
        game("s1", "s1"),
        game("s1", "base", strength=1),
        game("base", "s1", purpose="active"),
        game("s2", "base", source="simulated"),
        game(reply(None, source="human"), "base", source="human"),
    )
    games = store.games()
    assert len(games) < sum(n for _, n in games)  # they were counted, not listed
    counted, read = rank_games(games), rank(store.iter_usable(evaluation=True))
    assert (counted.games, counted.modes, counted.alike) == (read.games, read.modes, read.alike)
    assert counted.players == read.players
    [mine], [theirs] = counted.groups, read.groups
    for rating in theirs.ratings:
        same = mine.rating(rating.player)
        assert (same.games, same.wins) == (rating.games, rating.wins)
        assert (same.elo, same.low) == pytest.approx((rating.elo, rating.low))


def test_elo_says_when_it_cannot_tell(run: Run, store: Store) -> None:
    put(store, *[game("s1", "base") for _ in range(6)], *[game("base", "s1") for _ in range(5)])
    assert "supports no order yet: 11 games" in run("elo").ok().out
    put(store, *[game("s2", "base") for _ in range(30)], game("base", "s2"))
    assert "supports only: s2 over" in run("elo").ok().out


def test_elo_says_what_it_guessed_and_pooled(run: Run, store: Store) -> None:
    put(store, game("s1", "base"), game("s3", "s2", mode="redteam-best"))
    out = run("elo").ok().out
    assert "a guess" in out
    assert "No game connects those above with these:" in out
    assert "helpful 1, redteam-best 1" in out


def test_elo_does_not_obey_a_name(run: Run, store: Store) -> None:
    evil = "server:h:1/\x1b[2Jred"
    put(store, game(reply("remote", evil), "base"), game("base", reply("remote", evil)))
    out = run("elo").ok().out
    assert "\x1b" not in out
    assert "\\x1b[2Jred" in out
    assert "\x1b" not in run("elo", "--json").ok().out


def test_elo_refuses_what_it_does_not_know(run: Run, store: Store) -> None:
    put(store, game("s1", "base"))
    for args in (["--picks", "yours"], ["--anchor", "x"]):
        ran = run("elo", *args)
        assert ran.code == 2
        assert len(ran.err.splitlines()) == 1
