"""What a plan expects of ``over_select`` and ``draw_rate`` is what the draw does."""

import pytest
from rich.console import Console

from coordinator.rounds.cohort import asked
from motet.asking import asking_of
from motet.cli.plan import print_plan
from motet.plan import plan
from motet.recipe import parse_recipe
from privacy.accounting import epsilon_pld
from privacy.events import PoissonGaussianEvent

TEXT = """\
name: many
base_model: {{tiny: tiny-bert}}
task: {{kind: sequence-classification, num_labels: 2, max_length: 8}}
data: {{path: none.jsonl}}
adapter: {{lora_rank: {rank}}}
method: {{name: flora}}
training: {{rounds: 12, local_steps: 2, expected_batch_size: 4}}
cohort: {{clients: [{clients}], minimum: {minimum}, deadline_s: 5{more}}}
"""
PRIVACY = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1}\n"


def recipe(number=12, minimum=4, more="", rank="2", privacy=""):
    clients = ", ".join(f"c{i:02d}" for i in range(number))
    return parse_recipe(TEXT.format(rank=rank, clients=clients, minimum=minimum, more=more) + privacy)


@pytest.mark.parametrize(
    ("more", "minimum"),
    [(", over_select: 1.5", 4), (", draw_rate: 0.3", 2), (", draw_rate: 0.4, over_select: 1.5", 4)],
)
def test_the_expected_number_is_the_mean_of_many_draws(more, minimum):
    made = recipe(minimum=minimum, more=more)
    names, cohort = [f"c{i:02d}" for i in range(12)], made.cohort
    sizes = [
        len(
            asked(
                names,
                seed=7,
                round_index=t,
                attempt=0,
                draw_rate=cohort.draw_rate,
                minimum=cohort.minimum,
                over_select=cohort.over_select,
            )
        )
        for t in range(4000)
    ]
    told = asking_of(made, 12)
    assert told.per_round == pytest.approx(sum(sizes) / len(sizes), abs=0.15)
    assert max(sizes) <= told.most
    assert told.expected_rounds == pytest.approx(told.per_round)  # 12 rounds, 12 clients


def test_without_a_draw_all_are_asked_and_nothing_is_expected():
    assert asking_of(recipe(), 12) is None
    assert asking_of(recipe(more=", over_select: 3.0"), 12) is None  # three times the minimum is everybody


def test_a_plan_counts_those_who_are_asked_and_says_so():
    one = plan(recipe(privacy=PRIVACY), probe=False)
    made = plan(recipe(more=", over_select: 1.5", privacy=PRIVACY), probe=False)
    assert (made.asking.most, made.asking.per_round, made.asking.expected_rounds) == (6, 6.0, 6.0)
    assert made.expected_bytes == pytest.approx(sum(c.total_bytes for c in made.clients) / 2)
    assert one.expected_bytes == sum(c.total_bytes for c in one.clients)  # control: everybody, every round
    event = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=2)
    assert made.privacy.expected_epsilon == pytest.approx(epsilon_pld([event] * 6, 1e-5))
    assert made.privacy.epsilon == one.privacy.epsilon > made.privacy.expected_epsilon
    assert any("expected in 6 of 12 rounds; whoever is asked is charged" in n for n in made.notes)
    assert not any("whoever is asked" in n for n in one.notes)
    console = Console(width=80, record=True)
    print_plan(made, console)
    text = " ".join(console.export_text().split())
    assert "12, as expected" in text
    assert "asked in 6 rounds, as expected: epsilon" in text


def test_a_sum_holds_no_more_updates_than_are_asked():
    """FLoRA sends the stack of a round down: with over_select that of three clients, not of eight."""
    whole = plan(recipe(8, 2, rank="1"), probe=False).clients[0].bytes_down
    some = plan(recipe(8, 2, ", over_select: 1.5", rank="1"), probe=False).clients[0].bytes_down
    assert some[0] == whole[0]
    assert some[1] < 0.75 * whole[1]
