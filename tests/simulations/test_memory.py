"""The memory that a sweep takes does not grow with the number of instances."""

from __future__ import annotations

from conftest import Scene
from memory import peak_of_sweep, served


def test_a_sweep_keeps_nothing_of_the_pages_before(scene: Scene) -> None:
    """600 instances instead of 200, shown 100 at a time; kept, each would take 12 kB."""
    targets = [scene.sensor() for _ in range(3)]
    scene.show_pages_of(100)
    peaks = []
    with served(scene) as address:
        for more in (200, 400):
            scene.instances(more, tags={"mirror": ""})
            peaks.append(peak_of_sweep(address, scene.filter_id, targets, planned=True))
    few, many = peaks
    assert many - few < 1_500_000, f"{few:,} bytes for 200 instances, {many:,} for 600"
