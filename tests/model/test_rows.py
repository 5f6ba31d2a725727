"""Rows of unlike lengths run without their pads and come out as each would alone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hhchat.model import Adapter
from hhchat.model.preference import Judged, pack
from hhchat.model.rows import Line, Rows, by_length

SIZES = ((5, 2), (31, 9), (12, 4), (30, 1), (1, 1), (17, 17))


def adapter(model, seed=3):
    made = Adapter(model.spec, 4, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for b in made.b.values():
            b.normal_(0.0, 0.1, generator=generator)
    return made


def padded(sizes, pad=0):
    """Rows whose last tokens are read, and the same with every pad another id."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.full((len(sizes), max(n for n, _ in sizes)), pad)
    at = torch.zeros(len(sizes), max(r for _, r in sizes), dtype=torch.long)
    for i, (n, reads) in enumerate(sizes):
        ids[i, :n] = torch.randint(3, 384, (n,), generator=generator)
        at[i, :reads] = torch.arange(n - reads, n)
    return Rows(ids, at, lengths=[n for n, _ in sizes], reads=[r for _, r in sizes])


def learnt(trunk, rows, roles, weights):
    """Hidden states, and the gradients of a weighted sum of what is read."""
    for role in roles:
        role.zero_grad()
    hidden = trunk.hidden(rows, roles)
    real = torch.zeros(rows.at.shape)
    for i, reads in enumerate(rows.counts()[1]):
        real[i, :reads] = 1.0
    (hidden * weights[:, : len(rows.ids), : rows.at.shape[1]] * real[..., None]).sum().backward()
    return hidden.detach(), [p.grad.clone() for role in roles for p in role.parameters()]


def weights_for(model, roles, sizes):
    generator = torch.Generator().manual_seed(6)
    wide = max(r for _, r in sizes)
    return torch.randn(roles, len(sizes), wide, model.spec.hidden, generator=generator)


def test_a_batch_of_unlike_lengths_learns_what_its_rows_alone_would(make_tiny, family):
    model = make_tiny(family).load()
    roles = [adapter(model, 3), adapter(model, 5)]
    weights = weights_for(model, 2, SIZES)
    rows = padded(SIZES)
    hidden, gradients = learnt(model.trunk, rows, roles, weights)
    sums = [torch.zeros_like(g) for g in gradients]
    for i, (length, reads) in enumerate(SIZES):
        one = Rows(rows.ids[i : i + 1, :length], rows.at[i : i + 1, :reads])
        alone, found = learnt(model.trunk, one, roles, weights[:, i : i + 1])
        torch.testing.assert_close(hidden[:, i, :reads], alone[:, 0], atol=1e-5, rtol=1e-4)
        for total, gradient in zip(sums, found, strict=True):
            total += gradient
    for got, want in zip(gradients, sums, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


def test_what_stands_in_the_pads_changes_no_bit_of_a_state_or_of_a_gradient(llama):
    roles = [adapter(llama)]
    weights = weights_for(llama, 1, SIZES)
    want, gradients = learnt(llama.trunk, padded(SIZES), roles, weights)
    rows = padded(SIZES, pad=77)
    for i, (_, reads) in enumerate(SIZES):
        rows.at[i, reads:] = 30
    got, others = learnt(llama.trunk, rows, roles, weights)
    for i, (_, reads) in enumerate(SIZES):
        assert torch.equal(got[:, i, :reads], want[:, i, :reads])
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))


def test_no_gradient_comes_from_where_nothing_is_read(llama):
    role = adapter(llama)
    rows = padded(SIZES)
    hidden = llama.trunk.hidden(rows, (role,))
    unread = torch.ones(rows.at.shape)
    for i, (_, reads) in enumerate(SIZES):
        unread[i, :reads] = 0.0
    (hidden * unread[..., None]).sum().backward()
    assert torch.isfinite(hidden).all()
    assert all(p.grad is None or not p.grad.any() for p in role.parameters())


def test_checkpointing_learns_the_same_from_rows_of_unlike_lengths(make_tiny):
    model = make_tiny("qwen2").load()
    roles, weights = [adapter(model)], weights_for(model, 1, SIZES)
    _, want = learnt(model.trunk, padded(SIZES), roles, weights)
    model.trunk.checkpointing = True
    _, got = learnt(model.trunk, padded(SIZES), roles, weights)
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_packed_pairs_learn_what_each_reply_would_alone(make_tiny, family):
    # of unlike lengths, some of several blocks of attention, with the bare base among the roles
    model = make_tiny(family).load()
    generator = torch.Generator().manual_seed(8)

    def some(n):
        return torch.randint(3, 384, (n,), generator=generator).tolist()

    sizes = ((3, 2, 20), (70, 30, 11), (8, 5, 5), (60, 20, 19))
    pairs = [Judged(some(a), [some(b), some(c)]) for a, b, c in sizes]
    end = torch.nn.Parameter(torch.randn(3, model.spec.hidden, generator=generator))  # one a role
    roles = [adapter(model, 3), None, adapter(model, 5)]
    learning = [end, *roles[0].parameters(), *roles[2].parameters()]
    weights = torch.randn(3, len(pairs), 2, model.spec.hidden, generator=generator)

    def learnt(rows, weights):
        hidden = model.trunk.hidden(rows, roles, context_end=end)
        return hidden.detach(), torch.autograd.grad((hidden * weights).sum(), learning)

    hidden, gradients = learnt(pack(pairs), weights)
    sums = [torch.zeros_like(g) for g in gradients]
    for i, pair in enumerate(pairs):
        for j, reply in enumerate(pair.replies):
            one = pack([Judged(pair.prompt, [reply])])
            alone, found = learnt(one, weights[:, i : i + 1, j : j + 1])
            torch.testing.assert_close(hidden[:, i, j], alone[:, 0, 0], atol=1e-5, rtol=1e-4)
            for total, gradient in zip(sums, found, strict=True):
                total += gradient
    for got, want in zip(gradients, sums, strict=True):
        assert (got - want).norm() <= 1e-4 * want.norm()


def test_what_is_not_finite_in_one_role_or_row_stays_there(llama):
    broken, sound = adapter(llama, 3), adapter(llama, 5)
    rows = padded(SIZES)
    with torch.no_grad():
        next(iter(broken.a.values())).fill_(float("nan"))
        for roles in ([broken, sound, None], [None, sound, broken]):
            for role, states in zip(roles, llama.trunk.hidden(rows, roles), strict=True):
                for i, reads in enumerate(rows.counts()[1]):
                    assert bool(states[i, :reads].isfinite().all()) is (role is not broken)
        end = torch.full((1, llama.spec.hidden), float("nan"))
        for bad in range(len(SIZES)):
            ids = rows.ids.clone()
            ids[bad, 0] = -1
            (states,) = llama.trunk.hidden(replace(rows, ids=ids), (sound,), context_end=end)
            for i, reads in enumerate(rows.counts()[1]):
                assert bool(states[i, :reads].isfinite().all()) is (i != bad)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_reads_come_in_any_order_and_number(make_tiny, family):
    model = make_tiny(family).load()
    ids = torch.randint(3, 384, (2, 100), generator=torch.Generator().manual_seed(2))
    inorder = torch.arange(100).expand(2, -1)
    with torch.no_grad():
        (want,) = model.trunk.hidden(Rows(ids, inorder))
        (turned,) = model.trunk.hidden(Rows(ids, inorder.flip(1)))
        (some,) = model.trunk.hidden(
            Rows(ids, torch.cat((inorder[:1], inorder[:1] - 5)), reads=[100, 0])
        )
        (none,) = model.trunk.hidden(Rows(ids, inorder[:, :3], reads=[0, 0]))
    torch.testing.assert_close(turned.flip(1), want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(some[0], want[0], atol=1e-5, rtol=1e-4)
    assert none.shape == (2, 3, model.spec.hidden)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=20), copies=st.integers(1, 3))
def test_every_real_token_is_in_the_line_once_and_comes_back(lengths, copies):
    ids = torch.arange(len(lengths) * max(lengths)).view(len(lengths), -1)
    rows = Rows(ids, torch.zeros(len(lengths), 1, dtype=torch.long), lengths=lengths)
    groups = rows.alike()
    parts = [rows.some(g) for g in groups]
    assert sorted(b for g in groups for b in g) == list(range(len(lengths)))
    line = Line(lengths, [b for g in groups for b in g], copies, pads=True)
    way = line.rows([(g, p.ids.shape[1]) for g, p in zip(groups, parts, strict=True)], ids.device)
    packed = way.pack([p.ids.repeat(copies, 1) for p in parts])
    real = [ids[b, t].item() for g in groups for b in g for t in range(lengths[b])]
    assert packed.view(copies, -1)[:, : sum(lengths)].tolist() == [real] * copies
    for group, part, back in zip(groups, parts, way.spread(packed), strict=True):
        for copy in back.view(copies, len(group), -1):
            for row, b in enumerate(group):
                assert copy[row, : lengths[b]].tolist() == part.ids[row, : lengths[b]].tolist()
    (plain,) = line.rows([(range(len(lengths)), max(lengths))], ids.device).spread(packed)
    for b, length in enumerate(lengths):
        assert plain[b, :length].tolist() == ids[b, :length].tolist()


@pytest.mark.parametrize("lengths", [[90] + [20] * 7, [40] * 8, [97, 12, 60, 30, 88, 41]])
def test_a_layer_hardly_runs_pads(llama, lengths, monkeypatch):
    weight, seen = llama.trunk.layers[0].linears["up"], []
    product = type(weight).product

    def counted(self, x):
        if self is weight:
            seen.append(x.shape[0])
        return product(self, x)

    monkeypatch.setattr(type(weight), "product", counted)
    with torch.no_grad():
        llama.trunk.hidden(padded([(n, 1) for n in lengths]))
    (rows,) = seen
    assert sum(lengths) <= rows < sum(lengths) * 1.25


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 120))
def test_batches_by_length_hold_every_row_once_within_the_budget(sizes, tokens):
    groups = by_length(sizes, tokens)
    assert sorted(i for g in groups for i in g) == list(range(len(sizes)))
    for g in groups:
        assert len(g) == 1 or total(sizes, g) <= tokens


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=7), st.integers(1, 120))
def test_batches_by_length_are_as_few_as_can_be_and_the_largest_as_small(sizes, tokens):
    groups = by_length(sizes, tokens)
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    ways = []  # every way to cut the rows, from short to long, into batches
    for cuts in itertools.product((False, True), repeat=len(order) - 1):
        ends = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(order)]
        cut_up = [order[a:b] for a, b in itertools.pairwise(ends)]
        if all(len(g) == 1 or total(sizes, g) <= tokens for g in cut_up):
            ways.append((len(cut_up), max(total(sizes, g) for g in cut_up)))
    assert (len(groups), max(total(sizes, g) for g in groups)) == min(ways)


def total(sizes, group):
    return sum(sizes[i] for i in group)
