import pytest

from vila2cli.run.cost import Cost, cost_of, three_digits
from vila2cli.settings import CostSettings


def test_the_papers_figure() -> None:
    """VILA^2 section 3.6: 10.6 images/s on an H100 at 4.91 USD/h; the paper rounds to 0.12 USD per 1k."""
    cost = Cost(
        num_images=10_600, num_tokens=1_060_000, seconds=1000, device="GPU-hours", dollars_per_hour=4.91
    )
    assert cost.images_per_s == pytest.approx(10.6)
    assert cost.tokens_per_s == pytest.approx(1060)
    assert cost.dollars_per_1k == pytest.approx(0.1287, abs=1e-4)
    assert cost.hours == pytest.approx(1000 / 3600)
    assert cost.line() == (
        "10.6 images/s, 1,060 tokens/s; 0.0262 GPU-hours and $0.129 per 1,000 images "
        "(VILA^2: $0.12 a recaption pass, human captions $36)"
    )
    assert cost.times(1000).dollars == pytest.approx(cost.dollars_per_1k)
    assert cost.times(1000).images_per_s == pytest.approx(cost.images_per_s)


def test_devices_multiply_hours_but_not_speed() -> None:
    cost = Cost(num_images=100, num_tokens=500, seconds=36, num_devices=4, dollars_per_hour=1)
    assert cost.hours == pytest.approx(0.04)
    assert cost.dollars == pytest.approx(0.04)
    assert cost.hours_per_1k == pytest.approx(0.4)
    assert cost.images_per_s == pytest.approx(100 / 36)


def test_hours_are_of_what_the_engine_ran_on_and_a_server_charges_for_tokens() -> None:
    settings = CostSettings(dollars_per_hour=2.0)
    figures = {"answered": 100.0, "tokens": 900.0, "seconds": 3600.0, "device_seconds": 7200.0}
    here = cost_of(settings, figures)
    assert (here.device, here.num_devices, here.dollars) == ("core-hours", 2, 4.0)
    assert cost_of(settings, {**figures, "gpu_seconds": 7200.0}).device == "GPU-hours"
    server = cost_of(settings, {**figures, "server_seconds": 7200.0, "dollars": 0.3})
    assert (server.dollars, server.dollars_per_1k) == (0.3, pytest.approx(3.0))
    assert server.line().endswith("server-hours and $3 per 1,000 images"), "tokens are not the paper's GPUs"
    assert here.line().endswith("20 core-hours and $40 per 1,000 images"), "and neither are cores"
    assert server.times(1000).dollars == pytest.approx(3.0)
    assert server.to_json()["spent"] == 0.3
    assert cost_of(settings, {**figures, "server_seconds": 7200.0}).dollars == 0.0


def test_nothing_done_costs_nothing() -> None:
    cost = Cost(num_images=0, num_tokens=0, seconds=0)
    assert cost.dollars_per_1k == cost.images_per_s == cost.tokens_per_s == 0
    assert cost.line().startswith("0 images/s, 0 tokens/s; 0 core-hours per 1,000 images")
    assert cost.times(1000).seconds == 0
    assert cost.to_json()["device"] == "core-hours"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.000509, "0.000509"),
        (0.5, "0.5"),
        (12.34, "12.3"),
        (99.96, "100"),
        (1382.4, "1,382"),
        (6.5e6, "6,500,000"),
    ],
)
def test_a_figure_for_people_has_no_exponent(value: float, text: str) -> None:
    assert three_digits(value) == text
